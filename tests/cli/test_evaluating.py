"""`astor eval`: options that are wrong, or that would do nothing, are one line each."""

from __future__ import annotations

from pathlib import Path

import pytest

from astor_rl.cli.app import run
from astor_rl.engines.local.suites import SuiteOptions
from astor_rl.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "humanevil"], "there is no such suite; there are: cruxeval-input"),
        (["--suite", "mbpp", "--samples", "0"], "--samples is 0"),
        (["--suite", "mbpp", "--samples", "3", "--temperature", "0"], "all samples are the same"),
        (["--suite", "mbpp", "--limit", "0"], "--limit is 0"),
        (["--suite", "mbpp", "--unsandboxed", "python"], "--unsandboxed is 'python'"),
        (["--suite", "mbpp", "--validation"], "--validation is for a run's own examples"),
        (["--suite", "mbpp", "--output", "file"], "'file' is a file; with --suite results are a"),
        (["--suite", "mbpp", "--data", "humaneval=x"], "suite 'humaneval', which --suite doesn't"),
        (["--suite", "mbpp", "--set", "learning_rate=1"], "with --suite these can be set: dtype,"),
        (
            ["--suite", "mbpp", "--set", "dtype=int8"],
            "--set: dtype = 'int8': input should be 'bfloat16'",
        ),
        (["--suite", "mbpp", "--set", "rollout.max_row=9"], "did you mean 'max_rows'?"),
        (["--samples", "4"], "--samples belongs to --suite"),
        (["--samples", "1"], "--samples belongs to --suite"),
        (["--temperature", "0"], "--temperature belongs to --suite"),
        (["--seed", "0"], "--seed belongs to --suite"),
        (["--max-tokens", "0"], "--max-tokens belongs to --suite"),
        (["--limit", "0"], "--limit belongs to --suite"),
        (["--data", "mbpp=x"], "--data belongs to --suite"),
        (["--data-dir", "x"], "--data-dir belongs to --suite"),
        (["--toolchain", "cpp=x"], "--toolchain belongs to --suite"),
        (["--unsandboxed", "rust"], "--unsandboxed belongs to --suite"),
        (["--resume"], "--resume belongs to --suite"),
        (["--output", "folder"], "'folder' is a folder; without --suite results are a JSON file"),
    ],
)
def test_wrong_options_are_one_line(arguments, message, capsys, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert run(["eval", "some/model", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_suite_options_at_their_defaults_are_as_if_not_given(monkeypatch):
    asked = []

    def keep(target, options, **_):
        asked.append(options)
        raise ConfigError("enough")

    monkeypatch.setattr("astor_rl.engines.local.suites.evaluate_suites", keep)
    for given in ([], ["--samples", "1", "--temperature", "0", "--seed", "0"]):
        assert run(["eval", "some/model", "--suite", "mbpp", *given]) == 2
    bare, explicit = asked
    assert bare == SuiteOptions(["mbpp"])
    assert explicit == SuiteOptions(["mbpp"], samples=1, temperature=0.0, seed=0)
    assert (bare.samples, bare.heat, bare.seed) == (explicit.samples, explicit.heat, explicit.seed)

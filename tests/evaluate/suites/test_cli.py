"""`astor eval --suite`: options in one line each, and every suite on a real, tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from astor_rl.cli import suites
from astor_rl.cli.app import run
from astor_rl.cli.suites import SuiteOptions, model_settings
from astor_rl.errors import ConfigError

FILES = {
    "cruxeval-input": "cruxeval.jsonl",
    "humaneval": "HumanEval.jsonl",
    "mbpp": "mbpp.jsonl",
    "aider-polyglot": "code_generation.heldout.aider_polyglot_python.jsonl",
    "unit-tests": "unit-tests.jsonl",
    "commit-messages": "commit-messages.jsonl",
}


@pytest.fixture
def evaluate(capsys) -> Callable[..., tuple[int, str]]:
    """Run `astor eval` in this process: importing torch again takes longer than all suites."""

    def call(*arguments: object) -> tuple[int, str]:
        code = run(["eval", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


@pytest.fixture
def data_dir(tmp_path: Path, suite_rows: dict[str, Sequence[dict[str, Any]]]) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, file in FILES.items():
        lines = "".join(json.dumps(row) + "\n" for row in suite_rows[name])
        (folder / file).write_text(lines)
    return folder


@pytest.mark.slow
def test_every_suite_end_to_end(evaluate, reading_model: Path, data_dir: Path, tmp_path: Path):
    out = tmp_path / "out"
    model = shutil.copytree(reading_model, tmp_path / "model")
    asked = [
        *(model, "--suite", "paper", "--suite", "humaneval,mbpp,unit-tests"),
        *("--data-dir", data_dir, "--max-tokens", 6, "--output", out, "--plain"),
        *("--set", "torch_threads=1", "--set", "rollout.backend=transformers"),
    ]
    code, said = evaluate(*asked)
    assert code == 0, said
    results = json.loads((out / "results.json").read_text())
    assert list(results["suites"]) == [
        *("cruxeval-input", "cruxeval-output", "aider-polyglot", "defects4j"),
        *("commit-messages", "humaneval", "mbpp", "unit-tests"),
    ]
    for name, result in results["suites"].items():
        if name == "defects4j":
            assert "get a list of bugs" in result["not_run"]["all of it"]
            continue
        lines = (out / name / "samples.jsonl").read_text().splitlines()
        assert len(lines) == result["questions"] > 0
        assert f"{name}: {result['questions']} questions" in said
        for metric, found in result["metrics"].items():
            assert found["examples"] == result["questions"]
            assert any(line.split()[:2] == [name, metric] for line in said.splitlines())
    # A failed first try was followed by a second one, which was shown why.
    sample = json.loads((out / "aider-polyglot" / "samples.jsonl").read_text())
    assert len(sample["turns"]) == 2
    assert results["paper"]["mean_of_10"] is None
    assert "mean of 10 metrics: unknown: 3 not measured, 2 in part" in said
    assert results["suites"]["mbpp"]["rows"] == 2
    assert results["suites"]["mbpp"]["questions"] == 1

    before = (out / "results.json").read_bytes()
    code, said = evaluate(*asked)
    assert code == 1
    assert "holds an evaluation already; give --resume" in said.splitlines()[-1]
    code, said = evaluate(*asked, "--resume")
    assert code == 0, said
    assert (out / "results.json").read_bytes() == before
    code, said = evaluate(*asked, "--resume", "--seed", 1)
    assert "other settings: seed: 0 -> 1" in said.splitlines()[-1]
    with (model / "chat_template.jinja").open("a") as template:
        template.write("!")
    code, said = evaluate(*asked, "--resume")
    assert code == 1
    assert "other settings: chat_template: " in said.splitlines()[-1]


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
        (["--suite", "mbpp", "--set", "dtype=int8"], "--set dtype: "),
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

    monkeypatch.setattr(suites, "evaluate_suites", keep)
    for given in ([], ["--samples", "1", "--temperature", "0", "--seed", "0"]):
        assert run(["eval", "some/model", "--suite", "mbpp", *given]) == 2
    bare, explicit = asked
    assert bare == SuiteOptions(["mbpp"])
    assert explicit == SuiteOptions(["mbpp"], samples=1, temperature=0.0, seed=0)
    assert (bare.samples, bare.heat, bare.seed) == (explicit.samples, explicit.heat, explicit.seed)


def test_temperature_follows_the_samples():
    assert SuiteOptions(["mbpp"]).heat == 0
    assert SuiteOptions(["mbpp"], samples=4).heat == 0.2
    assert SuiteOptions(["mbpp"], temperature=0.7).heat == 0.7


def test_settings_come_from_the_run_file_and_the_command_line(tmp_path: Path):
    file = tmp_path / "run.toml"
    file.write_text(
        'model = "m"\ntorch_threads = 2\nchat_template_kwargs = { enable_thinking = false }\n'
        '[rollout]\nmax_rows = 8\n[[tasks]]\nname = "a"\ntask = "io_prediction"\n'
        'source = "jsonl:x"\n'
    )
    model, settings = model_settings("some/model", file, ["rollout.max_rows=4"])
    assert model == "some/model"
    assert settings.torch_threads == 2
    assert settings.rollout.max_rows == 4
    assert settings.chat_template_kwargs == {"enable_thinking": False}
    _, plain = model_settings("some/model", None, None)
    assert (plain.dtype, plain.rollout.max_rows) == ("bfloat16", 128)
    with pytest.raises(ConfigError, match="--set rollout"):
        model_settings("some/model", None, ["rollout.max_rows=0"])

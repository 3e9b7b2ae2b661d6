"""The compare file: what it may say, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from astor_rl.compare.spec import ArmConfig, load_comparison
from astor_rl.errors import ConfigError
from astor_rl.evaluate.merging import MERGE_METHODS

HEAD = 'base = "run.toml"\nseeds = [0, 1]\nmax_tokens = 1000\n'
ASTOR = '[[arms]]\nname = "astor"\n'
SPECIALISTS = '[[arms]]\nname = "special"\nkind = "specialists"\n'


def load(tmp_path: Path, text: str):
    path = tmp_path / "compare.toml"
    path.write_text(text)
    return load_comparison(path)


def test_defaults(tmp_path: Path):
    found = load(tmp_path, HEAD + ASTOR)
    assert (found.jobs, found.reference, found.output_dir) == (1, "astor", "runs/compare")
    (arm,) = found.arms
    assert (arm.kind, arm.set, arm.seeds, arm.role) == ("run", {}, None, None)
    assert found.seeds_of(arm) == [0, 1]


def test_merging_methods_are_all_there_are():
    methods = ArmConfig.model_fields["method"].annotation
    assert get_args(methods) == MERGE_METHODS


def test_a_merge_has_the_seeds_of_what_it_merges(tmp_path: Path):
    merge = '[[arms]]\nname = "m"\nkind = "merge"\nof = "special"\n'
    found = load(tmp_path, HEAD + ASTOR + SPECIALISTS + "seeds = [1]\n" + merge)
    assert found.seeds_of(found.arms[2]) == [1]


def test_an_option_replaces_the_files(tmp_path: Path):
    (tmp_path / "c.toml").write_text(HEAD + ASTOR)
    assert load_comparison(tmp_path / "c.toml", {"jobs": 3}).jobs == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("base = [", "not valid TOML"),
        (HEAD + "job = 2\n" + ASTOR, "unknown key 'job'; did you mean 'jobs'?"),
        (HEAD + ASTOR + "sed = 1\n", r"unknown key 'arms\[astor\].sed'; did you mean 'seeds'?"),
        (HEAD + ASTOR + "nonsense = 1\n", "the keys there: name, kind"),
        (ASTOR, "base is missing"),
        (HEAD, "arms is missing"),
        (HEAD.replace("1000", "0") + ASTOR, "max_tokens = 0: input should be greater"),
        (HEAD.replace("[0, 1]", "[]") + ASTOR, "seeds = "),
        (HEAD.replace("[0, 1]", "3") + ASTOR, "seeds = 3: input should be a valid array"),
        ("arms = [3]\n" + HEAD, r"arms\[0\] = 3: input should be a table$"),
        ("jobs = 0\nsed = 1\n" + HEAD + ASTOR, r"\(and 1 more\)$"),
        (HEAD.replace("[0, 1]", "[0, 0]") + ASTOR, "has one twice"),
        (HEAD + ASTOR + ASTOR, "'astor' is used twice"),
        (HEAD + '[[arms]]\nname = "start"\n', "name it else"),
        (HEAD + '[[arms]]\nname = "a/b"\n', r"arms\[a/b\].name = 'a/b'"),
        (HEAD + ASTOR + 'kind = "rum"\n', r"arms\[astor\].kind = 'rum': input should be 'run'"),
        (HEAD + '[[arms]]\nname = "x"\n', "reference is 'astor' and no arm has that name"),
        (HEAD + 'reference = "special"\n' + SPECIALISTS, "is several models"),
        (HEAD + ASTOR + 'budget = "share"\n', "budget is for kind = 'specialists' only"),
        (HEAD + ASTOR + "density = 0.5\n", "density is for kind = 'merge' only"),
        (HEAD + ASTOR + '[[arms]]\nname = "m"\nkind = "merge"\n', "of = 'NAME'"),
        (
            HEAD + ASTOR + '[[arms]]\nname = "m"\nkind = "merge"\nof = "astor"\n',
            r"of = 'astor' is no arm of specialists \(there are: none\)",
        ),
        (
            HEAD + ASTOR + SPECIALISTS + "seeds = [0]\n"
            '[[arms]]\nname = "m"\nkind = "merge"\nof = "special"\nseeds = [0, 1]\n',
            "'special' has no seed 1",
        ),
        (
            HEAD + ASTOR + SPECIALISTS + '[[arms]]\nname = "m"\nkind = "merge"\nof = "special"\n'
            "set = { beta = 1.0 }\n",
            "set belongs to 'special'",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str):
    with pytest.raises(ConfigError, match=says) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_comparison(tmp_path / "none.toml")

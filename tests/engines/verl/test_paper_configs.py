"""The paper's configurations, every arm of them, through verl's own composition and checks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from astor_rl.config import load_config
from astor_rl.engines.verl.hydra import arguments, check, compose, overrides
from astor_rl.engines.verl.run import arguments as arguments_of

PAPER = sorted((Path(__file__).parents[3] / "configs" / "paper").glob("*.toml"))


def arms() -> Iterator[tuple[Path, str, list[str]]]:
    """(file, arm, its `--set` values), as the comment at the top of each file lists them."""
    for path in PAPER:
        for name, line in re.findall(
            r"^#   (\S.*?)  +(as it is|--set .*)$", path.read_text(), re.M
        ):
            values = [part for part in shlex.split(line) if "=" in part]
            yield path, name, values


ARMS = list(arms())
IDS = [f"{path.stem}-{name}" for path, name, _ in ARMS]


def test_every_arm_of_the_paper_is_listed():
    assert [path.stem for path in PAPER] == ["qwen2.5-coder-7b", "qwen3-8b"]
    for path in PAPER:
        listed = {name for other, name, _ in ARMS if other == path}
        assert {"ASTOR", "Joint Learning", "Curriculum Learning", "on four nodes"} <= listed
        assert sum(name.startswith("specialist") for name in listed) == 4
        assert sum(name.startswith("without") for name in listed) == 3


def test_what_never_ran_is_said_at_the_top():
    for path in PAPER:
        assert "NEVER RUN ON A GPU" in path.read_text()[:400]


def test_the_papers_figures_are_kept():
    for path in PAPER:
        config = load_config(path)
        assert (config.prompts_per_step, config.num_generations, config.max_steps) == (128, 8, 400)
        assert len(config.tasks) == 4


@pytest.mark.parametrize(("path", "name", "values"), ARMS, ids=IDS)
def test_each_arm_becomes_verls_arguments(path: Path, name: str, values: list[str]):
    config = load_config(path, values)
    keys = dict(argument.split("=", 1) for argument in arguments_of(config))
    assert keys["trainer.nnodes"] == ("4" if name == "on four nodes" else "1")
    assert keys["data.train_batch_size"] == "128"


@pytest.mark.parametrize(("path", "name", "values"), ARMS, ids=IDS)
def test_verl_accepts_each_arm(path: Path, name: str, values: list[str]):
    pytest.importorskip("verl", reason="needs verl: make test-verl")
    config = load_config(path, values)
    composed = compose(arguments(overrides(config, Path("runs/verl"))))
    check(composed, config)
    assert composed.trainer.nnodes * composed.trainer.n_gpus_per_node in (8, 32)

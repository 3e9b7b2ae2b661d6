from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.config import (
    EvalConfig,
    RunConfig,
    apply_override,
    as_list,
    load_config,
    parse_config,
)
from astor_rl.errors import ConfigError

MINIMAL = """
model = "m"
[[tasks]]
name = "io"
task = "io_prediction"
source = "jsonl:io.jsonl"
[[tasks]]
name = "commits"
task = "commit_message"
source = ["jsonl:a.jsonl", "jsonl:b.jsonl"]
ratio = 2
"""
CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = [path for path in sorted(CONFIGS.glob("*.toml")) if not path.stem.startswith("compare")]


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_config_loads(path: Path) -> None:
    load_config(path)


def test_a_model_and_a_task_are_enough(minimal: Path) -> None:
    config = load_config(minimal)
    assert config.tasks[1].ratio == 2.0
    assert config.tasks[0].sources == ["jsonl:io.jsonl"]
    assert config.tasks[1].sources == ["jsonl:a.jsonl", "jsonl:b.jsonl"]


def test_defaults_are_those_of_the_method(minimal: Path) -> None:
    config = load_config(minimal)
    core = config.coordinator_options()
    assert (config.format_weight, config.std_floor, config.beta) == (0.1, 0.05, 0.001)
    assert (config.num_generations, config.prompts_per_step, config.importance_cap) == (8, 16, 2.0)
    assert (core.potential.half_life, core.potential.scale) == (8.0, "task_rms")
    assert (core.synergy.every, core.synergy.half_life, core.synergy.sketch_dim) == (8, 8.0, 2**16)
    assert (core.utility.form, core.utility.synergy_weight) == ("additive", 0.5)
    assert (core.schedule.tau, core.schedule.mix, core.schedule.warmup_steps) == (0.25, 0.2, 10)
    assert core.schedule.min_groups == 8
    assert (core.prompts.tau, core.prompts.eta, core.prompts.explore_share) == (0.5, 0.5, 0.5)
    assert (core.calibrate.kappa, core.calibrate.m_min, core.calibrate.m_max) == (0.7, 0.25, 4.0)
    assert core.calibrate.direction == "loosen"


def test_the_resolved_config_is_json_that_loads_to_the_same(minimal: Path) -> None:
    config = load_config(minimal, ["schedule.tau=0.5", "tasks.io.options.repeat=2"])
    resolved = minimal.with_name("config.json")
    resolved.write_text(json.dumps(config.resolved(), allow_nan=False))
    assert load_config(resolved) == config
    # Every option appears in it, those of the core's sections included.
    assert {"direction", "kappa"} <= config.resolved()["calibrate"].keys()
    assert config.resolved().keys() == RunConfig.model_fields.keys()


def test_a_config_cannot_change_after_it_was_checked(minimal: Path) -> None:
    config = load_config(minimal)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("seed=7", lambda c: c.seed == 7),
        (" seed = 7 ", lambda c: c.seed == 7),
        ("model=owner/name", lambda c: c.model == "owner/name"),
        ('model="a=b"', lambda c: c.model == "a=b"),
        ("model=a=b", lambda c: c.model == "a=b"),
        ("learning_rate=1e-4", lambda c: c.learning_rate == 1e-4),
        ("report_to=['wandb']", lambda c: c.report_to == ["wandb"]),
        ("lora.enabled=false", lambda c: not c.lora.enabled),
        ("schedule.tau=1", lambda c: c.schedule.tau == 1.0),
        ("tasks.commits.ratio=0.5", lambda c: c.tasks[1].ratio == 0.5),
        ("tasks.io.options.repeat=3", lambda c: c.tasks[0].options == {"repeat": 3}),
    ],
)
def test_overrides_reach_every_level(minimal: Path, override: str, read: Any) -> None:
    assert read(load_config(minimal, [override]))


def test_a_later_override_wins(minimal: Path) -> None:
    assert load_config(minimal, ["seed=1", "seed=2"]).seed == 2


@given(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.integers(-(2**63), 2**63 - 1))
def test_an_override_is_the_same_as_writing_the_key(key: str, value: int) -> None:
    raw: dict[str, Any] = {"outer": {"other": 1}}
    apply_override(raw, f"outer.{key}={value}")
    assert raw == {"outer": {"other": 1} | {key: value}}


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder, not a file$"):
        load_config(tmp_path)
    for name in ("config.json", "versions.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match=r"is a folder, not a file; a run's is '.*config\.json'$"):
        load_config(tmp_path)


def test_one_source_or_several() -> None:
    assert as_list(None) == []
    assert as_list("a") == ["a"]
    assert as_list(["a", "b"]) == ["a", "b"]


def test_several_mistakes_are_counted() -> None:
    raw = {"model": 1, "seed": "x", "tasks": []}
    with pytest.raises(ConfigError, match=r"\(and 2 more\)$"):
        parse_config(raw)


def test_the_settings_of_an_evaluation_are_those_of_the_files_there_are() -> None:
    settings = EvalConfig(examples=32, samples=2, temperature=0.5, every=8).settings("test")
    assert json.dumps(settings) == (
        '{"split": "test", "examples": 32, "samples": 2, "temperature": 0.5}'
    )

"""What bad input gets: one line that names the thing, its value, and what would be right.

Every case goes through a public surface. The line must hold the given pieces, in this order.
"""

from __future__ import annotations

import asyncio
import copy
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from astor_rl.config import apply_override, load_config, parse_config
from astor_rl.coordinator import Coordinator
from astor_rl.data.sources import load_source
from astor_rl.engines.preparation import prepare_tasks
from astor_rl.errors import (
    AstorError,
    CheckpointError,
    ConfigError,
    DataError,
    PlanError,
    RewardError,
    StateError,
)
from astor_rl.plan import GroupOutcome, TaskSpec, UpdateStats
from astor_rl.report import run_folder
from astor_rl.report.atomic import require_space, write_text
from astor_rl.report.run_folder import RunFolder
from astor_rl.report.trackers import Trackers
from astor_rl.sandbox.pool import ProcessPool
from astor_rl.sandbox.protections import GUARANTEES
from astor_rl.tasks.from_reward import RewardTask
from astor_rl.tasks.registry import make_task
from astor_rl.tasks.validation import rollout_of
from astor_rl.types import Score

TASK = {"name": "io", "task": "io_prediction", "source": "jsonl:io.jsonl"}
CONFIG: dict[str, Any] = {"model": "m", "tasks": [TASK]}


def complaint(kind: type[AstorError], action: Callable[[], object], *pieces: str) -> str:
    """The action's error is of exactly this kind, on one line, with the pieces in order."""
    with pytest.raises(AstorError) as caught:
        action()
    line = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in line
    assert re.search(".*".join(map(re.escape, pieces)), line), line
    return line


# ------------------------------------------------------------------------------ the config's keys

KEYS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"sed": 1}, ("unknown key 'sed'", "did you mean 'seed'?")),
    ({"warmup_steps": 3}, ("unknown key 'warmup_steps'", "lr_warmup_steps", "warmup.steps")),
    ({"num_train_epochs": 3}, ("unknown key 'num_train_epochs'", "max_steps")),
    ({"zebra": 1}, ("unknown key 'zebra'", "see docs/options.md")),
    ({"schedule": {"tao": 1}}, ("unknown key 'schedule.tao'", "did you mean 'tau'?")),
    ({"lora": {"rank": 8}}, ("unknown key 'lora.rank'", "the keys there: enabled, r,")),
    ({"seed": "1"}, ("seed = '1'", "valid integer")),
    ({"seed": -1}, ("seed = -1", "greater than or equal to 0")),
    ({"seed": True}, ("seed = True", "valid integer")),
    ({"model": ""}, ("model = ''", "at least 1 character")),
    ({"model": 3}, ("model = 3", "valid string")),
    ({"temperature": 0}, ("temperature = 0", "greater than 0")),
    ({"temperature": math.nan}, ("temperature = nan", "finite number")),
    ({"learning_rate": "1e-5"}, ("learning_rate = '1e-5'", "valid number")),
    ({"learning_rate": math.inf}, ("learning_rate = inf", "finite number")),
    ({"num_generations": 1}, ("num_generations = 1", "greater than or equal to 2")),
    ({"prompts_per_step": 0}, ("prompts_per_step = 0", "greater than or equal to 1")),
    ({"loss_type": "ppo"}, ("loss_type = 'ppo'", "'grpo', 'dr_grpo', 'bnpo' or 'dapo'")),
    ({"dtype": "float16"}, ("dtype = 'float16'", "'bfloat16' or 'float32'")),
    ({"overlong": "skip"}, ("overlong = 'skip'", "'error' or 'drop'")),
    ({"adam_beta2": 1.0}, ("adam_beta2 = 1.0", "less than 1")),
    ({"report_to": "wandb"}, ("report_to = 'wandb'", "valid array")),
    ({"report_to": ["comet"]}, ("report_to[0] = 'comet'", "'tensorboard', 'wandb'")),
    ({"lora": True}, ("lora = True", "a table")),
    ({"eval": {"examples": -1}}, ("eval.examples = -1", "greater than or equal to 0")),
    ({"schedule": {"tau": "0.5"}}, ("schedule.tau = '0.5'", "valid number")),
    ({"schedule": {"tau": 0.0}}, ("schedule.tau is 0.0", "at least 1e-06")),
    ({"schedule": {"mix": 2.0}}, ("schedule.mix is 2.0", "in [0, 1]")),
    ({"schedule": {"cost_aware": 1}}, ("schedule.cost_aware = 1", "valid boolean")),
    ({"calibrate": {"direction": "up"}}, ("calibrate.direction = 'up'", "'loosen' or 'tighten'")),
    ({"synergy": {"every": 0}}, ("synergy.every is 0", "at least 1")),
    ({"utility": {"form": "x"}}, ("utility.form = 'x'", "'additive' or 'multiplicative'")),
    (
        {"data": {"validation_share": 0.6, "test_share": 0.5}},
        ("data: validation_share + test_share is 1.1", "leave some for training"),
    ),
    (
        {"sandbox": {"allow_missing": ["foo"]}},
        ("sandbox.allow_missing names 'foo'", "known: userns,"),
    ),
    ({"tasks": []}, ("tasks = []", "at least 1 item")),
    ({"tasks": [TASK, TASK]}, ("tasks", "'io' is used twice", "give each its own")),
    ({"tasks": [TASK | {"ratio": 0}]}, ("tasks[io].ratio = 0", "greater than 0")),
    ({"tasks": [TASK | {"beta": -0.1}]}, ("tasks[io].beta = -0.1", "greater than or equal to 0")),
    ({"tasks": [TASK | {"sourc": "x"}]}, ("'tasks[io].sourc'", "did you mean 'source'?")),
    ({"tasks": [TASK | {"source": 3}]}, ("tasks[io].source = 3", "valid string or", "array")),
    ({"tasks": [TASK | {"source": []}]}, ("tasks[io].source = []", "at least 1 item")),
    ({"tasks": [TASK | {"name": "a b"}]}, ("tasks[a b].name = 'a b'", "match pattern")),
    ({"tasks": [TASK | {"task": "chess"}]}, ("tasks[io].task = 'chess'", "io_prediction, ")),
    ({"tasks": [{"name": "io"}]}, ("tasks[io].task is missing", "(and 1 more)")),
]


@pytest.mark.parametrize(("change", "pieces"), KEYS, ids=[str(change)[:60] for change, _ in KEYS])
def test_a_wrong_key_or_value(change: dict[str, Any], pieces: tuple[str, ...]) -> None:
    raw = copy.deepcopy(CONFIG) | copy.deepcopy(change)
    complaint(ConfigError, lambda: parse_config(raw, origin="run.toml"), "run.toml: ", *pieces)


def test_the_unchanged_config_is_right() -> None:
    parse_config(CONFIG)


# ----------------------------------------------------------------------------- the config's file

FILES: list[tuple[str, str, tuple[str, ...]]] = [
    ("run.toml", 'model = "m', ("config run.toml: not valid TOML: Unterminated string",)),
    ("run.json", '{"model": ', ("config run.json: not valid JSON", "line 1")),
    ("run.json", "[]", ("config run.json", "holds a list, not a table")),
    (
        "run.toml",
        'model = "m"\nmodel = "n"',
        ("not valid TOML: Cannot overwrite",),
    ),
    ("run.toml", "", ("run.toml: model is missing", "(and 1 more)")),
]


@pytest.mark.parametrize(("name", "content", "pieces"), FILES)
def test_a_wrong_file(tmp_path: Path, name: str, content: str, pieces: tuple[str, ...]) -> None:
    (tmp_path / name).write_text(content)
    complaint(ConfigError, lambda: load_config(tmp_path / name), *pieces)


def test_a_file_that_is_not_there_a_folder_or_not_text(tmp_path: Path) -> None:
    complaint(ConfigError, lambda: load_config("absent.toml"), "'absent.toml' does not exist")
    complaint(ConfigError, lambda: load_config(tmp_path), str(tmp_path), "is a folder")
    (tmp_path / "run.toml").write_bytes(b"\xff\xfe\x00")
    complaint(ConfigError, lambda: load_config(tmp_path / "run.toml"), "can't be read", "utf-8")


OVERRIDES: list[tuple[str, tuple[str, ...]]] = [
    ("seed", ("--set 'seed'", "key=value")),
    ("=3", ("--set '=3'", "key=value")),
    ("a..b=3", ("--set 'a..b=3'", "key=value")),
    ("model.name=3", ("--set 'model.name=3'", "model is no table")),
    ("tasks.nope.ratio=3", ("--set 'tasks.nope.ratio=3'", "no task is named 'nope'", "io")),
    ("tasks.io=3", ("--set 'tasks.io=3'", "tasks.NAME.ratio=2")),
]


@pytest.mark.parametrize(("override", "pieces"), OVERRIDES)
def test_a_wrong_override(override: str, pieces: tuple[str, ...]) -> None:
    complaint(ConfigError, lambda: apply_override(copy.deepcopy(CONFIG), override), *pieces)


# ------------------------------------------------------------------------------------------- rows

ROWS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("io_prediction", {"input": "1", "output": "1"}, ("field 'code' is missing", "str")),
    ("io_prediction", {"code": 3, "input": "1", "output": "1"}, ("'code' is int", "str")),
    ("io_prediction", {"code": "def f(:", "input": "", "output": "1"}, ("code",)),
    ("io_prediction", {"code": "def f(x): return x", "input": "1", "output": "x+"}, ("output",)),
    ("commit_message", {"message": "Fix it"}, ("field 'diff' is missing", "str")),
    ("commit_message", {"diff": " ", "message": "Fix"}, ("'diff' is blank", "show a change")),
    ("commit_message", {"diff": "+x", "message": " \n"}, ("subject is blank", "say something")),
]


@pytest.mark.parametrize(("kind", "row", "pieces"), ROWS)
def test_a_wrong_row_is_named_with_its_origin(
    kind: str, row: dict[str, Any], pieces: tuple[str, ...]
) -> None:
    task = make_task(kind, {"synonyms": "off"} if kind == "commit_message" else {}, None)
    complaint(DataError, lambda: task.example(row, origin="io.jsonl:12"), "io.jsonl:12", *pieces)


SOURCES: list[tuple[str, str, type[AstorError], tuple[str, ...]]] = [
    ("io.jsonl", "", ConfigError, ("'io.jsonl' isn't understood", "jsonl:path")),
    ("csv:io.csv", "", ConfigError, ("'csv:io.csv' isn't understood", "jsonl:path")),
    ("jsonl:absent.jsonl", "", DataError, ("absent.jsonl",)),
    ("jsonl:no*.jsonl", "", DataError, ("no file matches 'no*.jsonl'",)),
    ("jsonl:io.jsonl", "", DataError, ("io.jsonl is empty", "one JSON object a line")),
    ("jsonl:io.jsonl", '{"a": 1}\n{"a"', DataError, ("io.jsonl:2: not JSON",)),
    ("jsonl:io.jsonl", "[1]", DataError, ("io.jsonl:1", "JSON object, not list")),
    ("jsonl:io.jsonl", '{"a": NaN}', DataError, ("io.jsonl:1", "NaN isn't a JSON number")),
    ("jsonl:io.jsonl", '{"unit": 3}', DataError, ("io.jsonl:1", "'unit' is 3", "text")),
    ("jsonl:io.jsonl", '{"difficulty": 2}', DataError, ("io.jsonl:1", "'difficulty' is 2")),
    ("hf:", "", ConfigError, ("'hf:' isn't understood",)),
    ("hf:./absent", "", DataError, ("hf:./absent", "no folder")),
    ("mine:no-such-package-here", "", DataError, ("no-such-package-here",)),
]


@pytest.mark.parametrize(("spec", "content", "kind", "pieces"), SOURCES)
def test_a_wrong_source(
    tmp_path: Path, spec: str, content: str, kind: type[AstorError], pieces: tuple[str, ...]
) -> None:
    (tmp_path / "io.jsonl").write_text(content)
    complaint(
        kind, lambda: load_source(spec, base_dir=tmp_path, task_kind="io_prediction"), *pieces
    )


def test_a_source_of_other_columns(tmp_path: Path) -> None:
    (tmp_path / "io.jsonl").write_text('{"question": "q", "reply": "r"}')
    options: dict[str, Any] = {"base_dir": tmp_path, "task_kind": "io_prediction"}
    complaint(
        DataError,
        lambda: load_source("jsonl:io.jsonl", columns={"code": "source"}, **options),
        *("io.jsonl:1", "no column 'source' for field 'code'", "question, reply"),
    )


GOOD = '{"id": "%d", "code": "def f(x): return x + %d", "input": "%d", "output": "%d"}\n'


def prepared(folder: Path, render: Callable[[Any], tuple[int, ...]], **changes: Any) -> list[str]:
    """What a run says while it prepares its examples."""
    notes: list[str] = []
    with ProcessPool(1, allow_missing=tuple(GUARANTEES)) as sandbox:
        prepare_tasks(
            parse_config({**copy.deepcopy(CONFIG), **changes}),
            sandbox=sandbox,
            render=render,
            base_dir=folder,
            note=notes.append,
        )
    return notes


def test_prompts_over_the_limit(tmp_path: Path) -> None:
    rows = [GOOD % (n, n, n, 2 * n) for n in range(1, 41)]
    (tmp_path / "io.jsonl").write_text("".join(rows))

    def all_long(messages: Any) -> tuple[int, ...]:
        return (0,) * 600

    complaint(
        DataError,
        lambda: prepared(tmp_path, all_long),
        *(
            "task 'io', source: ",
            "io.jsonl:",
            "600 tokens",
            "max_prompt_length is 512",
            'overlong = "drop"',
        ),
    )
    complaint(
        DataError,
        lambda: prepared(tmp_path, all_long, overlong="drop"),
        *("task 'io'", "no training example is left", "overlong"),
    )
    said = prepared(tmp_path, lambda messages: (0,) * 10, overlong="drop")
    assert not any("overlong" in line for line in said)
    lengths = iter(range(10_000))
    said = prepared(tmp_path, lambda messages: (0,) * (500 + next(lengths)), overlong="drop")
    counted = re.search(r"io: 13 train, 0 validation, 0 test.* (\d+) overlong \(train\)", said[-1])
    assert counted, said


def test_a_task_without_examples_or_with_a_wrong_row(tmp_path: Path) -> None:
    (tmp_path / "io.jsonl").write_text("\n\n")
    complaint(DataError, lambda: prepared(tmp_path, lambda _: ()), "io.jsonl is empty")
    rows = [GOOD % (n, n, n, 2 * n) for n in range(20)]
    (tmp_path / "io.jsonl").write_text("".join([*rows, '{"id": "x", "code": "def f(x): pass"}\n']))
    complaint(DataError, lambda: prepared(tmp_path, lambda _: ()), "io.jsonl:21", "is missing")


KINDS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("chess", {}, ("task is 'chess'", "io_prediction")),
    ("no.such.module:task", {}, ("'no.such.module:task'", "no module")),
    ("json:nothing", {}, ("'json:nothing'", "has no 'nothing'")),
    ("json:dumps", {}, ("'json:dumps' is function", "isn't a Task")),
    ("io_prediction", {"directon": 1}, ("unknown option 'directon'", "direction")),
    ("io_prediction", {"direction": "up"}, ("'direction'", "'up'", "output")),
    ("io_prediction", {"reasoning": "yes"}, ("'reasoning'", "'yes'", "bool")),
]


@pytest.mark.parametrize(("kind", "options", "pieces"), KINDS)
def test_a_wrong_task_or_option(
    kind: str, options: dict[str, Any], pieces: tuple[str, ...]
) -> None:
    complaint(ConfigError, lambda: make_task(kind, options, None), *pieces)


# ---------------------------------------------------------------------------------------- rewards


@pytest.mark.parametrize("name", ["outcome", "format"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1, "1", None])
def test_a_reward_that_is_no_number_in_the_unit_interval(name: str, value: Any) -> None:
    rewards = {"outcome": 0.5, "format": 0.5} | {name: value}
    complaint(RewardError, lambda: Score(**rewards), f"{name} reward is {value!r}", "[0, 1]")


@pytest.mark.parametrize("reward", [math.nan, 1.5, "good", [0.5]])
def test_a_reward_function_that_gives_nonsense(reward: Any) -> None:
    def judge(prompts: Any, completions: Any, **columns: Any) -> list[Any]:
        return [reward for _ in completions]

    task = RewardTask(judge)
    example = task.example({"prompt": "q"}, origin="rows.jsonl:3")
    pairs = [(example, rollout_of("a"))]
    complaint(
        RewardError,
        lambda: asyncio.run(task.score(pairs)),
        *("judge gave", repr(reward), "rows.jsonl:3", "a number in [0"),
    )


# ------------------------------------------------------------------------------------ coordination


@pytest.fixture
def coordinator() -> Coordinator:
    keys = [f"{index:032x}" for index in range(12)]
    specs = [TaskSpec("io", keys, num_generations=4), TaskSpec("commit", keys, num_generations=4)]
    return Coordinator(specs, prompts_per_step=4)


@pytest.mark.parametrize("reward", [math.nan, -0.5, 1.5, math.inf])
def test_a_wrong_reward_names_its_task_and_prompt(coordinator: Coordinator, reward: float) -> None:
    plan = coordinator.plan(revision=0)
    item = plan.items[1]
    complaint(
        PlanError,
        lambda: coordinator.observe_groups(plan.id, [GroupOutcome(1, (0.5, reward))]),
        *(f"task {item.task}", item.key, f"{reward!r}", "[0, 1]"),
    )
    assert coordinator.unobserved(plan.id) == (0, 1, 2, 3)  # nothing of it was taken in


def test_observations_that_belong_to_no_plan(coordinator: Coordinator) -> None:
    plan = coordinator.plan(revision=0)
    group = GroupOutcome(0, (0.0, 1.0))
    complaint(
        PlanError, lambda: coordinator.observe_groups(99, [group]), "plan 99", "not in flight"
    )
    far = GroupOutcome(9, (0.0,))
    complaint(PlanError, lambda: coordinator.observe_groups(plan.id, [far]), "no slot 9", "0 to 3")
    many = GroupOutcome(0, (0.0,) * 5)
    complaint(
        PlanError, lambda: coordinator.observe_groups(plan.id, [many]), "5 outcomes", "asked for 4"
    )
    stats = UpdateStats(kl={"io": math.nan})
    complaint(
        PlanError, lambda: coordinator.observe_update(plan.id, 1, stats), "kl", "nan", "task io"
    )
    stats = UpdateStats(kl={"chess": 0.1})
    complaint(
        PlanError, lambda: coordinator.observe_update(plan.id, 1, stats), "'chess'", "commit, io"
    )


def test_a_batch_that_cannot_be_planned(coordinator: Coordinator) -> None:
    complaint(PlanError, lambda: coordinator.plan(revision=0, need={"chess": 1}), "'chess'", "io")
    complaint(PlanError, lambda: coordinator.plan(revision=0, need={"io": -1}), "-1", "at least 0")
    complaint(PlanError, lambda: coordinator.plan(revision=0, need={"io": 13}), "13", "12")
    coordinator.plan(revision=3)
    complaint(PlanError, lambda: coordinator.plan(revision=2), "revision 2", "3", "never goes back")


def test_a_coordinator_of_nothing_or_of_twins() -> None:
    complaint(ConfigError, lambda: Coordinator([], prompts_per_step=4), "no tasks", "at least one")
    twins = [TaskSpec("io", ["a"]), TaskSpec("io", ["b"])]
    complaint(
        ConfigError, lambda: Coordinator(twins, prompts_per_step=4), "two tasks", "'io'", "unique"
    )


def test_a_state_of_other_tasks_is_refused(coordinator: Coordinator) -> None:
    other = Coordinator([TaskSpec("chess", ["a", "b"])], prompts_per_step=1)
    complaint(
        StateError,
        lambda: coordinator.load_state_dict(other.state_dict()),
        *("new ['commit', 'io']", "gone ['chess']", "on_task_change='adapt'"),
    )


# ------------------------------------------------------------------------------------- run folders


def test_run_folders(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", CONFIG, resume=False) as folder:
        folder.append_metrics(1, {})
    again = (tmp_path / "run", CONFIG)
    complaint(
        ConfigError,
        lambda: RunFolder.create(*again, resume=False),
        *(str(tmp_path / "run"), "holds a run already", "--resume"),
    )
    with RunFolder.create(*again, resume=True):
        complaint(
            StateError,
            lambda: RunFolder.create(*again, resume=True),
            *("in use by process", str(os.getpid()), "run.lock"),
        )
    (tmp_path / "file").write_text("")
    complaint(
        ConfigError,
        lambda: RunFolder.create(tmp_path / "file", CONFIG, resume=False),
        *("is a file", "name a folder"),
    )
    complaint(
        DataError, lambda: run_folder.read_config(tmp_path), "holds no run", "give the output_dir"
    )


def test_places_without_space_or_permission(tmp_path: Path) -> None:
    complaint(
        CheckpointError, lambda: require_space(tmp_path, 10**18), "needs", "are free", "output_dir"
    )
    complaint(
        CheckpointError,
        lambda: write_text(Path("/proc/nowhere"), ""),
        *("can't write '/proc/nowhere'", "set output_dir"),
    )
    complaint(
        CheckpointError,
        lambda: RunFolder.create("/proc/nowhere/run", CONFIG, resume=False),
        *("can't write '/proc/nowhere", "set output_dir"),
    )


def test_trackers(tmp_path: Path) -> None:
    complaint(
        ConfigError,
        lambda: Trackers(["comet"], tmp_path, CONFIG, note=print),
        *("report_to 'comet' is unknown", "tensorboard, wandb"),
    )


# ----------------------------------------------------------------------------------------- the CLI

COMMANDS: list[tuple[tuple[str, ...], int, tuple[str, ...]]] = [
    (("trian", "x"), 2, ("No such command 'trian'", "astor --help")),
    (("train",), 2, ("Missing argument 'CONFIG'", "astor train --help")),
    (("train", "run.toml", "--fast"), 2, ("No such option: --fast", "astor train --help")),
    (("train", "absent.toml"), 2, ("config 'absent.toml' does not exist",)),
    (("train", "run.toml", "--set", "sed=1"), 2, ("unknown key 'sed'", "did you mean 'seed'?")),
    (("train", "run.toml", "--set", "seed=x"), 2, ("seed = 'x'", "valid integer")),
    (("validate", "run.toml", "-n", "0"), 2, ("'-n'", "greater than or equal to 1")),
    (("validate", "run.toml", "--set", "model="), 2, ("model = ''", "at least 1 character")),
    (("report", "absent"), 1, ("run folder 'absent' does not exist", "output_dir")),
    (("report", "."), 1, ("run folder '.' holds no run",)),
]


@pytest.mark.parametrize(("arguments", "code", "pieces"), COMMANDS)
def test_a_command_fails_with_one_line(
    tmp_path: Path, arguments: tuple[str, ...], code: int, pieces: tuple[str, ...]
) -> None:
    (tmp_path / "run.toml").write_text(
        'model = "m"\n[[tasks]]\nname = "io"\ntask = "io_prediction"\nsource = "jsonl:io.jsonl"\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", "from astor_rl.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == code
    assert done.stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    assert re.search(".*".join(map(re.escape, pieces)), done.stderr), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]  # nothing was begun

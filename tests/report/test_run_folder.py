from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from astor_rl.errors import ConfigError, DataError, StateError
from astor_rl.report import run_folder
from astor_rl.report.run_folder import RunFolder, with_data_seeds

Make = Callable[..., RunFolder]
Train = Callable[[RunFolder, range], None]
Result = Callable[[dict[str, float], float | None], dict[str, Any]]
COURSE = ("metrics.jsonl", "receipts.jsonl", "samples.jsonl", "config.json")


def begin(make: Make, train: Train) -> Path:
    """A run that was stopped after its first step."""
    folder = make()
    train(folder, range(1))
    folder.close()
    return folder.path


def files(path: Path) -> dict[str, bytes]:
    """Everything in a folder but who holds it."""
    found = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {str(file): file.read_bytes() for file in found if file.name != "run.lock"}


def course(path: Path) -> dict[str, str]:
    """Everything of a run that must not depend on whether it was interrupted."""
    files = {name: (path / name).read_text() for name in COURSE}
    files["events"] = json.dumps(
        [
            {key: value for key, value in event.items() if key != "time"}
            for event in run_folder.read_events(path)
            if "step" in event
        ]
    )
    return files | {file.name: file.read_text() for file in sorted((path / "eval").glob("*"))}


def test_a_killed_and_resumed_run_has_the_files_of_an_uninterrupted_one(
    make: Make, train: Train, result: Result
) -> None:
    whole = make("whole")
    train(whole, range(3))
    whole.save_evaluation("step-2", {"io": result({"a": 1.0}, None)}, step=2)
    train(whole, range(3, 6))
    whole.save_evaluation("step-5", {"io": result({"a": 0.5}, None)}, step=5)
    whole.close()

    killed = make("killed")
    train(killed, range(3))
    killed.save_evaluation("step-2", {"io": result({"a": 1.0}, None)}, step=2)
    train(killed, range(3, 5))
    killed.save_evaluation("step-4", {"io": result({"a": 0.7}, None)}, step=4)
    killed.close()
    with (killed.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "task/io/rew')  # the write that the kill cut
    resumed = make("killed", resume=True)
    assert resumed.resumed
    assert resumed.changed == ()
    resumed.truncate_after(2)
    train(resumed, range(3, 6))
    resumed.save_evaluation("step-5", {"io": result({"a": 0.5}, None)}, step=5)
    resumed.close()
    assert course(killed.path) == course(whole.path)
    sessions = [e["event"] for e in run_folder.read_events(killed.path) if "step" not in e]
    assert sessions == ["started", "killed", "resumed"]


def test_lines_written_before_sigkill_are_all_there(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from astor_rl.report.run_folder import RunFolder
folder = RunFolder.create(sys.argv[1], {"model": "tiny"}, resume=False)
for step in range(50):
    folder.append_metrics(step, {"x": step})
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [record["x"] for record in run_folder.read_metrics(path)] == list(range(50))
    # The dead process's lock is no obstacle.
    RunFolder.create(path, {"model": "tiny"}, resume=True).close()


def test_a_session_that_was_stopped_says_why(make: Make, train: Train) -> None:
    path = begin(make, train)
    with pytest.raises(KeyboardInterrupt), make(resume=True):
        raise KeyboardInterrupt
    with pytest.raises(ConfigError), make(resume=True):
        raise ConfigError("beta is -1; it should be 0 or more")
    with pytest.raises(RuntimeError), make(resume=True):
        raise RuntimeError("ours,\nin two lines")
    events = [event for event in run_folder.read_events(path) if "step" not in event]
    assert [(event["event"], event.get("why")) for event in events] == [
        ("started", None),
        ("killed", None),
        ("resumed", None),
        ("stopped", "KeyboardInterrupt"),
        ("resumed", None),
        ("stopped", "beta is -1; it should be 0 or more"),
        ("resumed", None),
        ("stopped", "RuntimeError: ours, in two lines"),
    ]


def test_a_killed_session_ends_with_its_last_line(make: Make, train: Train) -> None:
    folder = make()
    train(folder, range(1))
    folder.close()
    for log in folder.path.glob("*.jsonl"):
        os.utime(log, (5e8, 5e8))
    os.utime(folder.path / "metrics.jsonl", (6e8, 6e8))
    make(resume=True).close()
    events = run_folder.read_events(folder.path)
    assert [event["time"] for event in events if event["event"] == "killed"] == [6e8]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "huge"}, "model is 'huge', the run in '{}' has 'tiny'; resume with that or"),
        ({"seed": 3, "max_steps": 9}, "seed is 3, the run in '{}' has 1; resume with that or"),
        ({"engine": "verl"}, "engine is 'verl', the run in '{}' has 'local'"),
        ({"schedule": {"method": "sec"}}, "schedule.method is 'sec', the run in '{}' has 'astor'"),
        ({"lora": {"r": 8}}, "lora.r is 8, the run in '{}' has 4"),
        ({"lora": {"enabled": False}}, "lora.enabled is False, the run in '{}' has True"),
        ({"lora": {"lora_alpha": 1.0}}, "lora.lora_alpha is 1.0, the run in '{}' has 8.0"),
        ({"lora": {"target_modules": ["q"]}}, "lora.target_modules is ['q'], the run in"),
        ({"warmup": {"steps": 5}}, "warmup.steps is 5, the run in '{}' has 0"),
        ({"warmup": {"lora": True}}, "warmup.lora is True, the run in '{}' has False"),
        ({"data": {"test_share": 0.2}}, "data.test_share is 0.2, the run in '{}' has 0.1"),
        ({"data": {"validation_share": 0.2}}, "data.validation_share is 0.2, the run in '{}' has"),
        ({"tasks": [{"name": "io"}]}, "tasks are io, the run in '{}' has io, commit; resume with"),
        (
            {"tasks": [{"name": "io", "max_examples": 5}, {"name": "commit"}]},
            "tasks.io.max_examples is 5, the run in '{}' has None",
        ),
        (
            {"tasks": [{"name": "io"}, {"name": "commit", "order": "easy"}]},
            "tasks.commit.order is 'easy', the run in '{}' has 'mixed'",
        ),
        (
            {"tasks": [{"name": "io"}, {"name": "commit", "task": "mine:Task"}]},
            "tasks.commit.task is 'mine:Task', the run in '{}' has 'commit_message'",
        ),
    ],
)
def test_what_a_run_must_keep_is_refused_by_name_and_the_folder_stays_as_it_was(
    make: Make, train: Train, changes: dict[str, Any], says: str
) -> None:
    whole: dict[str, Any] = {
        "engine": "local",
        "schedule": {"method": "astor"},
        "lora": {"enabled": True, "r": 4, "lora_alpha": 8.0, "target_modules": "all-linear"},
        "warmup": {"steps": 0, "lora": False},
        "data": {"validation_share": 0.1, "test_share": 0.1},
        "tasks": [
            {"name": "io", "task": "io_prediction", "max_examples": None, "order": "mixed"},
            {"name": "commit", "task": "commit_message", "max_examples": None, "order": "mixed"},
        ],
    }
    folder = make(**whole)
    train(folder, range(1))
    folder.close()
    before = files(folder.path)
    changed = {
        key: {**whole[key], **value} if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    with pytest.raises(StateError, match=re.escape(says.format(folder.path))):
        make(resume=True, **{**whole, **changed})
    assert files(folder.path) == before


def test_a_session_that_is_not_accepted_leaves_the_folder_as_it_was(
    make: Make, train: Train
) -> None:
    path = begin(make, train)
    with (path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 1')
    before = files(path)
    refused = make(resume=True, accept=False, max_steps=9)
    assert refused.changed == ("max_steps: 6 -> 9",)
    with pytest.raises(DataError), refused:
        raise DataError("its examples are others")
    assert files(path) == before
    # The next one compares with the run's config, not with the refused one's.
    assert make(resume=True, max_steps=12).changed == ("max_steps: 6 -> 12",)


def test_a_kill_while_a_session_is_accepted_does_not_lose_what_changed(
    make: Make, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = begin(make, train)

    def killed(path: Path, value: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "write_json", killed)
        session = make(resume=True, accept=False, max_steps=9)
        with pytest.raises(KeyboardInterrupt):
            session.accept()
        session.close()
    make(resume=True, max_steps=9)
    noted = [e["changed"] for e in run_folder.read_events(path) if e["event"] == "resumed"]
    assert noted == [["max_steps: 6 -> 9"]] * 2


def test_a_session_begins_when_the_folder_is_taken_up(make: Make, train: Train) -> None:
    """Loading is part of it."""
    path = begin(make, train)
    resumed = make(resume=True, accept=False)
    taken_up = time.time()
    time.sleep(0.01)
    resumed.accept()
    assert run_folder.read_events(path)[-1]["time"] <= round(taken_up, 3)


def test_another_run_is_never_overwritten(make: Make, train: Train) -> None:
    folder = make()
    train(folder, range(2))
    folder.close()
    before = course(folder.path)
    with pytest.raises(ConfigError, match=r"holds a run already; continue it with --resume"):
        make()
    assert course(folder.path) == before


def test_a_run_that_stopped_before_any_work_is_no_obstacle(make: Make) -> None:
    make(model="mispelt").close()
    folder = make(model="misspelt")
    assert not folder.resumed
    assert [event["event"] for event in run_folder.read_events(folder.path)] == ["started"]
    assert run_folder.read_config(folder.path)["model"] == "misspelt"
    folder.close()
    folder.save_evaluation("before_rl", {})
    with pytest.raises(ConfigError, match="holds a run already"):
        make(model="misspelt")


def test_two_trainers_cannot_share_a_folder(make: Make) -> None:
    make()
    with pytest.raises(StateError, match=f"is in use by process {os.getpid()}"):
        make(resume=True)


def test_resume_where_nothing_is_starts_a_run(make: Make, config: dict[str, Any]) -> None:
    folder = make(resume=True)
    assert not folder.resumed
    assert run_folder.read_config(folder.path) == config


def test_resume_says_what_changed_in_the_config(make: Make, train: Train) -> None:
    begin(make, train)
    tasks = [{"name": "io", "ratio": 1.0}, {"name": "commit", "ratio": 3.0}]
    folder = make(resume=True, max_steps=12, tasks=tasks, new={"key": 1})
    assert folder.changed == (
        "max_steps: 6 -> 12",
        "new.key: 'absent' -> 1",
        "tasks.commit.ratio: 2.0 -> 3.0",
    )
    assert run_folder.read_config(folder.path)["max_steps"] == 12


def test_resume_says_which_versions_changed(make: Make, train: Train) -> None:
    path = begin(make, train) / "versions.json"
    made_with = json.loads(path.read_text())
    made_with["packages"] |= {"numpy": "1.0", "gone": "2.0"}
    path.write_text(json.dumps(made_with))
    assert make(resume=True).changed == (
        "packages.gone: '2.0' -> 'absent'",
        f"packages.numpy: '1.0' -> {numpy.__version__!r}",
    )
    assert json.loads(path.read_text())["packages"]["numpy"] == numpy.__version__


def test_a_refused_session_gives_the_lock_back(make: Make, train: Train) -> None:
    begin(make, train)
    with pytest.raises(StateError, match="model is 'huge'"):
        make(resume=True, model="huge")
    make(resume=True).close()


def test_a_file_in_the_way(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        RunFolder.create(tmp_path / "run", config, resume=False)


def test_numbers_that_are_not_finite_are_null(make: Make) -> None:
    folder = make()
    folder.append_metrics(0, {"kl": float("nan"), "x": numpy.float32(0.5)})
    assert (folder.path / "metrics.jsonl").read_text() == '{"step": 0, "kl": null, "x": 0.5}\n'


def test_a_record_may_not_bring_its_own_step(make: Make) -> None:
    with pytest.raises(StateError, match="a record names its own step 3"):
        make().append_metrics(1, {"step": 3})


def test_a_torn_last_line_is_passed_over_and_a_damaged_one_named(make: Make, train: Train) -> None:
    folder = make()
    train(folder, range(2))
    path = folder.path / "receipts.jsonl"
    with path.open("a") as file:
        file.write('{"step": 2')
    assert [record["step"] for record in run_folder.read_receipts(folder.path)] == [0, 1]
    path.write_text('{"step": 0}\n{"ste\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"receipts\.jsonl:2: not valid JSON"):
        run_folder.read_receipts(folder.path)
    path.write_text("[1]\n")
    with pytest.raises(DataError, match=r"receipts\.jsonl:1: list where a JSON object"):
        run_folder.read_receipts(folder.path)


def test_text_with_odd_line_breaks_stays_one_line(make: Make) -> None:
    folder = make()
    odd = "a\u2028b\x85c\r\nd\x1e\ud800"
    folder.append_samples(0, [{"text": odd}, {"text": "next"}])
    folder.truncate_after(0)
    read = run_folder.read_samples(folder.path)
    assert [record["text"] for record in read] == [odd, "next"]


def test_evaluations_come_back_as_saved(make: Make, result: Result) -> None:
    folder = make()
    saved = {"io": result({"a": 0.5}, None)}
    path = folder.save_evaluation("before_rl", saved, step=0)
    assert path == folder.path / "eval" / "before_rl.json"
    evaluations = run_folder.read_evaluations(folder.path)
    made = {"name": "before_rl", "step": 0, "settings": {}, "tasks": saved}
    assert evaluations == {"before_rl": made}


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no run; give"):
        run_folder.read_metrics(tmp_path)
    with pytest.raises(DataError, match="does not exist; give the output_dir"):
        run_folder.read_metrics(tmp_path / "absent")


def test_a_models_folder_is_no_run_and_is_never_written_into(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert not run_folder.holds_run(tmp_path)
    with pytest.raises(ConfigError, match=r"a config\.json that is no run's \(a model's\?\)"):
        RunFolder.create(tmp_path, config, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("name", ["model", "checkpoints", "metrics.jsonl", "samples.jsonl"])
def test_what_a_run_would_write_over_is_never_touched(
    tmp_path: Path, config: dict[str, Any], name: str
) -> None:
    theirs = tmp_path / name / "theirs" if "." not in name else tmp_path / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("precious")
    for resume in (False, True):
        with pytest.raises(ConfigError, match=f"is no run's and holds '{name}', which a run"):
            RunFolder.create(tmp_path, config, resume=resume)
    assert theirs.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["eval", "verl", "logs"])
def test_what_a_run_leaves_alone_may_be_there_before_it(make: Make, name: str) -> None:
    path = make().path
    for log in path.iterdir():
        log.unlink()
    (path / name).mkdir()
    (path / name / "theirs.json").write_text("{}")
    assert not make().resumed
    assert (path / name / "theirs.json").exists()


@pytest.mark.parametrize(("content", "problem"), [("{", "can't be read"), ("[]", "is list")])
def test_a_damaged_config_is_named(make: Make, content: str, problem: str) -> None:
    folder = make()
    (folder.path / "config.json").write_text(content)
    with pytest.raises(DataError, match=problem):
        run_folder.read_config(folder.path)


def test_versions_say_what_the_run_was_made_with(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    versions: dict[str, Any] = json.loads((make().path / "versions.json").read_text())
    assert versions["python"] == platform.python_version()
    assert versions["packages"]["numpy"] == numpy.__version__
    assert versions["git"] is None
    assert re.fullmatch("[0-9a-f]{16}", versions["code"])


def test_versions_name_the_commit_and_whether_files_differ(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]

    def git(*arguments: str) -> str:
        command = ["git", *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def state(name: str) -> dict[str, Any]:
        return json.loads((make(name).path / "versions.json").read_text())["git"]

    git("init", "-q")
    assert state("unborn") == {"commit": None, "dirty": False}
    (repository / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    assert state("clean") == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (repository / "file").write_text("2")
    assert state("dirty")["dirty"] is True


def test_the_seed_of_the_data_is_the_runs_where_there_is_none() -> None:
    merge = {"of.io/seed-1.seed": 1, "of.io/seed-1.data.test_share": 0.1}
    flat = {"seed": 3, "data.test_share": 0.1, **merge}  # as older releases wrote it
    assert with_data_seeds(flat) == {**flat, "data.seed": 3, "of.io/seed-1.data.seed": 1}
    assert with_data_seeds({**flat, "data.seed": None})["data.seed"] == 3
    assert with_data_seeds({**flat, "data.seed": 0})["data.seed"] == 0
    assert with_data_seeds({"seed": 3, "beta": 0.1}) == {"seed": 3, "beta": 0.1}

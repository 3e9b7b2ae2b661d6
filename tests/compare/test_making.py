"""`astor compare` with a real model: killed and taken up, changed, failing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from astor_rl.compare.making import PRELOAD
from astor_rl.report.lock import FolderLock
from astor_rl.report.run_folder import read_config, read_evaluations, read_metrics

pytestmark = pytest.mark.slow

Astor = Callable[..., "subprocess.Popen[str]"]
Write = Callable[..., Path]

COMPARE = """
base = "run.json"
output_dir = "{folder}"
seeds = [0, 1]
max_tokens = 300
jobs = 2

[[arms]]
name = "astor"

[[arms]]
name = "joint"
set = {{ schedule.method = "uniform" }}

[[arms]]
name = "alone"
kind = "specialists"
budget = "share"
seeds = [0]

[[arms]]
name = "merging"
kind = "merge"
of = "alone"
"""

ONE_SEED = COMPARE.replace("seeds = [0, 1]", "seeds = [0]").replace("= 300", "= 150")


@pytest.fixture
def compare_file(tiny_run: Write, tmp_path: Path) -> Callable[..., Path]:
    """Write the compare file `NAME.toml` for the folder NAME beside it."""
    tiny_run(
        max_steps=30,
        save_steps=1,
        warmup={"steps": 3, "batch_size": 4},
        eval={"every": 2, "before_warmup": False},
    )

    def write(name: str, text: str = COMPARE) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(text.format(folder=tmp_path / name))
        return path

    return write


def in_a_group(*arguments: str) -> subprocess.Popen[str]:
    """The command line as the leader of a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "astor_rl", *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], *, code: int = 0) -> str:
    said, _ = process.communicate(timeout=400)
    assert process.returncode == code, said
    return said


def findings(folder: Path) -> dict[str, Any]:
    """The report, without where it lies."""
    found: dict[str, Any] = json.loads((folder / "comparison.json").read_text())
    del found["comparison"]["output_dir"]
    return found


def _without_judging(found: dict[str, Any]) -> dict[str, Any]:
    """Of single examples, exports keep six decimals."""
    for arm in found["arms"].values():
        del arm["judging_error"]
    return found


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(40_000):
        if path.exists():
            return
        if process.poll() is not None:
            pytest.fail(f"{path.name} never came: {process.communicate()[0]}")
        time.sleep(0.01)
    pytest.fail(f"{path.name} never came")


def kill_at(path: Path, process: subprocess.Popen[str]) -> None:
    """`kill -9` as soon as a file or folder is there."""
    wait_for(path, process)
    process.kill()
    process.communicate()


def wait_for_line(process: subprocess.Popen[str], part: str) -> None:
    """Until it says something with these words in it."""
    assert process.stdout is not None
    if not any(part in line for line in process.stdout):
        pytest.fail(f"it never said {part!r}")


def test_killed_and_taken_up_equals_uninterrupted_and_changes_are_refused(
    compare_file: Callable[..., Path], astor: Astor, tmp_path: Path
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    said = finish(astor("compare", str(compare_file("straight"))))
    assert "9 of 9 units to do, 2 at once" in said
    _check_finished(straight)
    _check_shared_start(straight)

    file = str(compare_file("killed"))
    kill_at(killed / "runs/start/seed-0/base", astor("compare", file))
    assert " of 4 units to do" in finish(astor("compare", file, "--only", "joint"))
    assert list(findings(killed)["arms"]) == ["joint"]
    kill_at(killed / "runs/astor/seed-0/checkpoints/checkpoint-1", astor("compare", file))
    kill_at(killed / "runs/merging/seed-0", astor("compare", file))
    process = in_a_group("compare", file)
    wait_for_line(process, " now ")
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does: to everyone
    assert "goes on" in finish(process, code=130)
    assert 4 <= findings(killed)["finished"] < 9  # an interrupted comparison keeps what it has
    finish(astor("compare", file))
    assert findings(killed) == findings(straight)
    for name in ("astor/seed-1", "alone/seed-0/first"):
        one, other = (read_metrics(folder / "runs" / name) for folder in (straight, killed))
        for record in (*one, *other):
            for key in [key for key in record if key.startswith("time")]:
                del record[key]
        assert one == other

    # What was found here can be shown elsewhere, and nothing that needs weights goes on there.
    results = str(tmp_path / "results.jsonl")
    finish(astor("compare", str(compare_file("straight")), "--report", "--export", results))
    file = str(compare_file("elsewhere"))
    said = finish(astor("compare", file, "--report", "--import", results))
    assert "9 units taken up" in said
    assert _without_judging(findings(tmp_path / "elsewhere")) == _without_judging(
        findings(straight)
    )
    assert "0 of 9 units to do" in finish(astor("compare", file))

    # Nothing is made again, and nothing is needed to look.
    before = _stamps(straight)
    file = str(compare_file("straight"))
    assert "0 of 9 units to do" in finish(astor("compare", file))
    assert "astor against Joint:" in finish(astor("compare", file, "--report"))
    assert _stamps(straight) == before

    # A finished arm can't become another one.
    changed = COMPARE.replace('"uniform" }}', '"uniform", beta = 0.5 }}')
    said = finish(astor("compare", str(compare_file("straight", changed))), code=1)
    last = said.splitlines()[-1]
    assert last.startswith("error: joint/seed-0 was made with another beta: 0.01 -> 0.5; give")

    # Nor does a report show old results under its name.
    before = (straight / "comparison.json").read_bytes()
    said = finish(astor("compare", str(tmp_path / "straight.toml"), "--report"), code=1)
    assert said.splitlines()[-1].startswith("error: joint/seed-0 was made with another beta")
    assert (straight / "comparison.json").read_bytes() == before


def test_what_could_not_be_judged_is_not_trained(
    compare_file: Callable[..., Path], tiny_run: Write, astor: Astor, tmp_path: Path
) -> None:
    path = compare_file("unjudged", ONE_SEED)
    tiny_run(
        max_steps=30,
        warmup={"steps": 3, "batch_size": 4},
        eval={"every": 2},
        data={"validation_share": 0.0, "test_share": 0.2},
    )
    said = finish(astor("compare", str(path)), code=1)
    first = next(line for line in said.splitlines() if line.startswith("error: "))
    assert "start/seed-0 failed: error: task 'first' has no validation examples" in first
    assert "raise data.validation_share or give it a validation_source" in first
    assert not (tmp_path / "unjudged/runs/start/seed-0/base").exists()
    assert not (tmp_path / "unjudged/runs/astor/seed-0").exists()


def test_another_machine_goes_on_with_what_it_was_given(
    tiny_run: Write, astor: Astor, tmp_path: Path
) -> None:
    tiny_run(max_steps=30, eval={"every": 2, "before_warmup": False})
    here, there = tmp_path / "here", tmp_path / "there"
    files = {}
    for folder in (here, there):
        files[folder] = str(tmp_path / f"{folder.name}.toml")
        Path(files[folder]).write_text(ONE_SEED.format(folder=folder))
    results = str(tmp_path / "joint.jsonl")
    given = ("--only", "joint", "--only", "alone", "--export", results)
    assert f"{results} has the results of 4 units" in finish(astor("compare", files[here], *given))
    said = finish(astor("compare", files[there], "--import", results), code=1)
    assert "merging/seed-0 needs the weights of alone/seed-0/first, of which only the" in said
    assert not (there / "runs/astor").exists()
    # What needs no weights is trained, from the start that it evaluates itself.
    finish(astor("compare", files[there], "--only", "astor"))
    finish(astor("compare", files[here], "--only", "astor"))
    mine, theirs = (_without_judging(findings(folder)) for folder in (here, there))
    assert mine["arms"]["astor"] == theirs["arms"]["astor"]
    assert mine["gains"] == theirs["gains"]
    lock = FolderLock(here / "compare.lock")  # as a comparison that is running has it
    assert "in use by process" in finish(astor("compare", files[here], "--import", results), code=1)
    lock.release()
    # Stopped before anything is finished there is nothing to export, and that is no error.
    Path(files[there]).write_text(ONE_SEED.format(folder=tmp_path / "third"))
    process = in_a_group("compare", files[there], "--export", str(tmp_path / "none.jsonl"))
    wait_for_line(process, " now ")
    os.killpg(process.pid, signal.SIGTERM)
    assert "interrupted with 0 of 6 units done" in finish(process, code=130)
    assert not (tmp_path / "none.jsonl").exists()


def _check_finished(folder: Path) -> None:
    found = findings(folder)
    assert (found["finished"], found["units"], found["failed"]) == (9, 9, {})
    arms = found["arms"]
    assert list(arms) == ["astor", "joint", "alone:first", "alone:second", "alone", "merging"]
    for name, share in (("astor", 1), ("joint", 1), ("alone:first", 2)):
        for tokens in arms[name]["tokens"].values():
            assert 300 / share <= tokens < 300 / share + 6 * 4 * 6  # and not a step further
    assert found["astor_vs_joint"]["seeds"] == 2
    assert found["astor_vs_merging"]["against"] == ["merging"]
    assert arms["merging"]["test"]["mean"]["mean"] is not None
    assert "| joint | 2 |" in (folder / "comparison.md").read_text()


def _check_shared_start(folder: Path) -> None:
    """All arms began at one warm-up, and what it scores is the same in all of them."""
    start = folder / "runs" / "start" / "seed-0"
    for name in ("astor/seed-0", "joint/seed-0", "alone/seed-0/second"):
        run = folder / "runs" / name
        assert read_config(run)["model"] == str(start / "base")
        assert not (run / "base").exists()
        ours, theirs = read_evaluations(run), read_evaluations(start)
        for evaluation in ("before_rl", "step_0"):
            assert ours[evaluation] == theirs[evaluation]
        assert read_metrics(run)[0]["step"] == 1


def _stamps(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in (folder / "runs").rglob("*") if p.is_file()}


def test_one_unit_fails_the_others_go_on_and_the_code_tells(
    compare_file: Callable[..., Path], astor: Astor, tmp_path: Path
) -> None:
    # More prompts a step than one task alone has: only its specialists can't go on.
    text = COMPARE.replace("seeds = [0, 1]", "seeds = [0]").replace(
        "max_tokens = 300", 'max_tokens = 100\nset = {{ "prompts_per_step" = 24 }}'
    )
    said = finish(astor("compare", str(compare_file("some", text))), code=1)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert [line.split(" failed")[0] for line in errors] == [
        "error: alone/seed-0/first",
        "error: alone/seed-0/second",
        "error: merging/seed-0",
    ]
    assert "failed: error: prompts_per_step is 24 and there are" in errors[0]
    assert "it needs alone/seed-0/" in errors[2]
    found = findings(tmp_path / "some")
    assert list(found["arms"]) == ["astor", "joint"]
    assert found["failed"].keys() == {"alone/seed-0/first", "alone/seed-0/second", "merging/seed-0"}
    assert found["astor_vs_joint"]["low"] is None  # one seed


def test_what_units_fork_from_is_there_and_knows_no_commands() -> None:
    # A name that can't be imported would be passed over in silence.
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {PRELOAD}]; "
        "print([name for name in sys.modules if name.startswith('astor_rl.cli')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

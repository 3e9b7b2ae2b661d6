from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from astor_rl.errors import StateError
from astor_rl.report.lock import FolderLock, started_at

HOLD = """
import sys, time
from pathlib import Path
from astor_rl.report.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_living_holder_is_named_and_a_killed_one_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StateError, match=f"in use by process {holder.pid} on"):
            FolderLock(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    lock = FolderLock(path)
    with pytest.raises(StateError, match=f"process {os.getpid()}"):
        FolderLock(path)
    lock.release()
    FolderLock(path).release()


def test_a_reused_process_id_is_not_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    lock = FolderLock(path)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "start": "another time"}))
    FolderLock(path).release()
    lock.release()


def test_another_machines_lock_is_respected(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    path.write_text(json.dumps({"pid": 1, "start": "x", "host": "elsewhere.example"}))
    with pytest.raises(StateError, match=r"on elsewhere\.example; wait for it, or delete"):
        FolderLock(path)


@pytest.mark.parametrize("torn", ["", '{"pid": 12', "[]"])
def test_a_lock_torn_by_a_crash_is_taken_over(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "run.lock"
    path.write_text(torn)
    FolderLock(path).release()


def test_release_leaves_a_successors_lock_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    lock = FolderLock(path)
    theirs = json.dumps({"pid": 1, "start": "x", "host": "elsewhere.example"})
    path.write_text(theirs)
    lock.release()
    assert path.read_text() == theirs
    path.unlink()
    lock.release()


def test_start_times_tell_processes_apart() -> None:
    assert started_at(os.getpid()) == started_at(os.getpid())
    assert started_at(os.getpid()) != started_at(1)  # a parent may be of the same clock tick
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert started_at(child.pid) is None

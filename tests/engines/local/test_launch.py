"""Several processes: errors arrive as they were, stops are asked once, nobody is left behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from astor_rl.engines.local.interrupts import ASKS, INSIST, graceful_stop, obey_parent
from astor_rl.engines.local.launch import launch, pack, unpack
from astor_rl.errors import AstorError, ConfigError, RankError

PARENT = '''
"""Two processes in a loop that stops gracefully; marks in a folder say how far they are."""
import os, sys, time
from pathlib import Path
from astor_rl.engines.local.interrupts import graceful_stop
from astor_rl.engines.local.launch import launch

def loop(folder, patient):
    here = Path(folder)
    rank = os.environ["RANK"]
    with graceful_stop(lambda _: (here / f"asked{rank}").touch()) as stop:
        (here / f"ready{rank}").touch()
        while not (patient and stop.asked):
            time.sleep(0.01)
        (here / f"saved{rank}").touch()
        raise KeyboardInterrupt

if __name__ == "__main__":
    try:
        launch(loop, (sys.argv[1], sys.argv[2] == "patient"), processes=2)
    except KeyboardInterrupt:
        print("interrupted")
'''


class TouchyError(Exception):
    """Pickles, but can't be made again from its pickle."""

    def __init__(self, *, why: str) -> None:
        super().__init__(why)


def raised(error: BaseException) -> BaseException:
    """The error with a traceback through this function."""
    try:
        raise error
    except BaseException as same:  # noqa: BLE001 - any
        return same


@pytest.mark.parametrize(
    "error", [ConfigError("beta is -1; it must be >= 0"), KeyboardInterrupt(), OSError(28, "full")]
)
def test_errors_travel_as_they_were_with_their_traceback(error: BaseException) -> None:
    arrived = unpack(pack(raised(error), rank=1, size=2))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    text = "".join(traceback.format_exception(arrived))
    assert "in process 1 of 2" in text
    assert "in raised" in text


@pytest.mark.parametrize("error", [TouchyError(why="no disk"), ValueError("no disk", lambda: None)])
def test_what_can_not_travel_is_named(error: Exception) -> None:
    arrived = unpack(pack(raised(error), rank=0, size=2))
    assert type(arrived) is RuntimeError
    assert type(error).__name__ in str(arrived)
    assert "no disk" in str(arrived)
    assert "in raised" in "".join(traceback.format_exception(arrived))


def test_an_error_of_a_module_that_only_the_child_has() -> None:
    _, said, note = pickle.loads(pack(raised(ValueError("bad")), rank=0, size=1))
    arrived = unpack(pickle.dumps((b"cno_such_module\nError\n.", said, note)))
    assert str(arrived) == "ValueError: bad"


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts this process's signal handlers back."""
    before = {number: signal.getsignal(number) for number in (*ASKS, INSIST)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_child_hears_a_repeated_request_once_and_its_parent_insist() -> None:
    obey_parent()
    notes: list[str] = []
    with graceful_stop(notes.append) as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(INSIST)
    signal.raise_signal(signal.SIGTERM)  # the same request, late: while the process unwinds
    assert len(notes) == 1


@pytest.mark.usefixtures("handlers")
def test_a_child_outside_a_loop_stops_at_the_first_request_only() -> None:
    obey_parent()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(INSIST)


@pytest.mark.usefixtures("handlers")
def test_without_a_parent_the_second_request_insists() -> None:
    with graceful_stop(lambda _: None):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def _fail(how: str) -> None:
    """Rank 1 fails; rank 0 fails for want of it, or never notices."""
    if os.environ["RANK"] == "0":
        if how != "unnoticed":
            raise RankError("gather: connection closed by peer")
        time.sleep(3600)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "silent":
        os._exit(3)
    time.sleep(0.2)  # rank 0's complaint comes first
    raise ConfigError("num_generations is 1; it must be >= 2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "kind", "says"),
    [
        ("told", ConfigError, "num_generations is 1; it must be >= 2"),
        ("unnoticed", ConfigError, "num_generations is 1; it must be >= 2"),
        ("killed", RankError, "process 1 of 2 was ended by SIGKILL; the usual reason is too"),
        ("silent", RankError, "process 1 of 2 ended with exit code 3 without saying why"),
    ],
)
def test_the_cause_is_raised_not_its_consequence(
    how: str, kind: type[AstorError], says: str
) -> None:
    before = [signal.getsignal(number) for number in ASKS]
    with pytest.raises(kind) as caught:
        launch(_fail, (how,), processes=2)
    assert str(caught.value).startswith(says)
    assert [signal.getsignal(number) for number in ASKS] == before


def test_what_can_not_be_started_is_an_error_and_leaves_nothing() -> None:
    with pytest.raises((AttributeError, pickle.PicklingError)):
        launch(lambda: None, (), processes=2)


Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Start]:
    """Start a parent of two looping processes, in a process group of their own."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    started: list[subprocess.Popen[str]] = []

    def start(mode: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), mode],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def marks(folder: Path, name: str) -> set[str]:
    return {path.name for path in folder.glob(f"{name}?")}


def wait_for(folder: Path, name: str, process: subprocess.Popen[Any]) -> None:
    """Until both ranks have left the mark."""
    for _ in range(12_000):
        if len(marks(folder, name)) == 2:
            return
        if process.poll() is not None:
            pytest.fail(f"ended before {name!r}: {process.communicate()[0]}")
        time.sleep(0.01)
    pytest.fail(f"{name!r} never came")


def finish(process: subprocess.Popen[str]) -> str:
    """What it said. The pipe ends only when no process of the family holds it any more."""
    return process.communicate(timeout=120)[0]


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["the parent", "all of them"])
def test_one_request_is_one_to_every_process(tmp_path: Path, parent: Start, whom: str) -> None:
    """A scheduler's SIGTERM to the parent alone, and a terminal's Ctrl-C to the whole group."""
    process = parent("patient")
    wait_for(tmp_path, "ready", process)
    if whom == "the parent":
        process.send_signal(signal.SIGTERM)
    else:
        os.killpg(process.pid, signal.SIGINT)
    assert finish(process) == "interrupted\n"
    assert marks(tmp_path, "saved") == {"saved0", "saved1"}


@pytest.mark.slow
def test_a_second_request_stops_at_once(tmp_path: Path, parent: Start) -> None:
    process = parent("stubborn")
    wait_for(tmp_path, "ready", process)
    process.send_signal(signal.SIGTERM)
    wait_for(tmp_path, "asked", process)
    process.send_signal(signal.SIGTERM)
    assert finish(process) == "interrupted\n"
    assert not marks(tmp_path, "saved")


@pytest.mark.slow
def test_children_of_a_killed_parent_end(tmp_path: Path, parent: Start) -> None:
    process = parent("stubborn")
    wait_for(tmp_path, "ready", process)
    process.kill()
    assert finish(process) == ""

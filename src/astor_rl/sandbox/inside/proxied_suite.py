"""Harness of `SuiteJob` in two processes: the tests here, the untrusted solution in the other.

The tests see stand-ins of what the solution defines. Their source, what they expect and what became
of them never leave this process. See `proxy` for how the two talk.
"""

from __future__ import annotations

import random
import resource
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from astor_rl.sandbox import codec
from astor_rl.sandbox.inside import modules, suite
from astor_rl.sandbox.inside.protocol import END
from astor_rl.sandbox.inside.proxy.access import Access, Guarded
from astor_rl.sandbox.inside.proxy.channel import GONE, Channel
from astor_rl.sandbox.inside.proxy.desk import Desk
from astor_rl.sandbox.inside.proxy.importing import StandInFinder, importable
from astor_rl.sandbox.inside.proxy.peer import LIMIT, Peer
from astor_rl.sandbox.inside.proxy.process import Ended, Helper
from astor_rl.sandbox.inside.tests import Note


def solution(channel: Channel, data: bytes) -> None:
    """What the untrusted process does: answer, until it is killed or nobody asks.

    Raises:
        Lost: nobody does.
    """
    files, seed = codec.decode(data)
    for path, text in files.items():
        suite.write(path, text)
    random.seed(seed)
    finder = modules.SourceFinder(files)
    finder.forget()  # modules of the library that are called the same
    sys.meta_path.insert(0, finder)
    Peer(channel, Desk(Access(), importable(files))).serve()


def run(job: Mapping[str, Any], helper: Helper) -> Iterator[list[Any]]:
    """`[status, name, failure]` after each test, then the end.

    The end is `[END, status, message, assertions, names of methods by which the solution's objects
    had a say]`. Names of tests carry their file when there are several.
    """
    files, support = job["files"], job["support"]
    cpu_s = resource.getrlimit(resource.RLIMIT_CPU)[0]
    channel = helper.become(cpu_s, codec.encode([{**files, **support}, job["seed"]], LIMIT))
    peer = Peer(channel, Desk(Guarded()), judging=job["judging"])
    trusted = {**support, **job["tests"]}
    sys.meta_path.insert(0, modules.SourceFinder(trusted))
    # First: whatever the files are called, the solution's names are the solution's.
    StandInFinder(peer, importable(files) - importable(trusted)).install()
    total = 0
    for step in suite.steps(job["tests"]):
        if isinstance(step, int):
            total = step
            break
        yield _message(step, peer.lost)
    yield [END, *_verdict(peer.lost, helper.end()), total, sorted(peer.judged)]


def _message(note: Note, lost: str) -> list[Any]:
    failure = note.failure
    if lost and not failure:  # it was swallowed
        failure = f"{note.name}: the solution was lost: {lost}"
    return [note.status, note.name, failure]


def _verdict(lost: str, ended: Ended) -> tuple[str, str]:
    """What became of the solution's process, as a job's status and message."""
    if not lost:
        return "ok", ""
    if lost == GONE:
        return ended.status, ended.message
    return "malformed", f"the solution's process sent {lost}"

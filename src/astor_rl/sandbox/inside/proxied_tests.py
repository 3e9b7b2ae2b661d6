"""Harness of `TestsJob` with the untrusted tests in a process of their own.

The trusted side holds the versions. The tests run on some of them, which nobody can foresee, and
then on the reference version, each time in a fresh process; what they ask of the reference is
recorded, and asked of all others at once. Where the answers are the same, the tests would see the
same and end the same. They are run again only on versions that answer otherwise, so that a version
counts as told apart by what it did and by what the tests made of it. The tests can't learn which
version they are run on but by what it does. Tests that end in two ways on one version are void.
"""

from __future__ import annotations

import marshal
import random
import select
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from mmap import mmap
from typing import Any, Final

from astor_rl.sandbox import codec
from astor_rl.sandbox.inside import modules
from astor_rl.sandbox.inside.child import Walls
from astor_rl.sandbox.inside.counting import asserts_at_top_level, instrumented
from astor_rl.sandbox.inside.protocol import END
from astor_rl.sandbox.inside.proxied_targets import (
    DIFFERS,
    ENDED,
    MEASURE,
    SAME,
    TEST,
    TOLD,
    Targets,
)
from astor_rl.sandbox.inside.proxy.access import Access
from astor_rl.sandbox.inside.proxy.channel import Channel
from astor_rl.sandbox.inside.proxy.desk import Desk
from astor_rl.sandbox.inside.proxy.importing import StandInFinder, importable
from astor_rl.sandbox.inside.proxy.peer import LIMIT, Peer
from astor_rl.sandbox.inside.proxy.process import FRAME, SPOILT, Ended, Helper, Worker
from astor_rl.sandbox.inside.proxy.tape import Tape
from astor_rl.sandbox.inside.tests import (
    TESTS_MODULE,
    Deadline,
    Note,
    assertions,
    deadline,
    run_tests,
)

_MARGIN_S: Final = 2
"""CPU seconds that a process may use beyond the deadline that it keeps itself."""
_Row = list[Any]
_DECOYS: Final = 5
_REMEMBERS: Final = Ended("error", "the tests' verdict depends on what ran before")


def tests(channel: Channel, data: bytes) -> None:
    """What a process of the untrusted tests does: run them once.

    Raises:
        Lost: the trusted side is gone.
    """
    code, source, names, seconds, asserts, seed = codec.decode(data)
    file = f"{TESTS_MODULE}.py"
    modules.show(file, source)
    random.seed(seed)
    peer = Peer(channel, Desk(Access()), fatal=(Deadline,))
    StandInFinder(peer, frozenset(names)).install()
    try:
        with deadline(seconds):
            notes = list(run_tests(TESTS_MODULE, marshal.loads(code), file, asserts))
    except Deadline as late:  # between two tests
        notes = [Note("timeout", "", f"over {late} s")]
    said = [[list(note) for note in notes], assertions()]
    peer.finish(codec.encode(said, LIMIT))


def run(job: Mapping[str, Any], helper: Helper, walls: Walls) -> Iterator[list[Any]]:
    """A row for each target that was run or replayed, then the end.

    A row is `[index, status, passed, failed, assertions, coverage or None, message, differs]`.
    """
    try:
        tree = instrumented(job["tests"])
        code = modules.compiled(tree, f"{TESTS_MODULE}.py", job["tests"])
    except SyntaxError as error:
        return iter([[END, "error", modules.one_line(error)]])
    return _Session(job, marshal.dumps(code), helper, walls).messages()


class _Host:
    """The process that serves one version, and the tests on the other side.

    Each version has one of its own: the tests could leave notes in what a version shares with the
    next, as the loggers of a process.
    """

    def __init__(self, targets: Targets, helper: Helper, walls: Walls) -> None:
        self._helper = helper
        serve = partial(targets.serve, helper.reads, helper.writes)
        self._worker = Worker(serve, walls, (helper.reads, helper.writes))

    def test(self, index: int, *, measured: bool, recorded: bool) -> tuple[list[Any] | None, Ended]:
        """What became of the version (None if it ended the process), and of the tests' process,
        which is gone afterwards.
        """
        self._worker.tell([TEST, index, measured, recorded])
        poll = select.poll()
        for descriptor in (self._worker.results, self._helper.reports):
            poll.register(descriptor, select.POLLIN)
        ended: Ended | None = None
        while self._worker.results not in dict(poll.poll()):
            ended = self._helper.reap()
            poll.unregister(self._helper.reports)
            self._worker.tell([ENDED])
        result = self._worker.result()
        if ended is None:
            self._helper.kill()
            ended = self._helper.reap()
        return result, ended

    def measured(self) -> list[Any] | None:
        """Counts and exchange of the version that was served."""
        self._worker.tell([MEASURE])
        return self._worker.result()

    def end(self) -> Ended:
        """How its process ended."""
        return self._worker.end()


class _Session:
    """One job."""

    def __init__(self, job: Mapping[str, Any], code: bytes, helper: Helper, walls: Walls) -> None:
        self._job = job
        self._helper = helper
        self._walls = walls
        self._targets = Targets(job)
        names = sorted(importable([f"{job['module']}.py", *job["support"]]))
        asserts = asserts_at_top_level(job["tests"])
        setup = [code, job["tests"], names, job["per_target_s"], asserts, job["seed"]]
        self._setup = codec.encode(setup, FRAME)
        self._cpu_s = int(job["per_target_s"]) + _MARGIN_S

    def messages(self) -> Iterator[list[Any]]:
        """See `run`."""
        reference, order = self._job["reference"], list(self._job["order"])
        if reference is None:
            yield from (self._tested(index)[0] for index in order)
        else:
            yield from self._compared(reference, [n for n in order if n != reference])
        self._helper.end()
        yield [END, "ok", ""]

    def _compared(self, reference: int, others: Sequence[int]) -> Iterator[_Row]:
        """The reference, and if the tests pass on it, the others."""
        sources = self._job["targets"]
        # Equal code is run again: whoever does not pass twice passes by chance.
        mutants = [index for index in others if sources[index] != sources[reference]]
        first = {index: self._tested(index)[0] for index in _decoys(mutants)}
        row, tape = self._tested(reference, recorded=True)
        yield row
        if row[1] != "ok" or row[3] or not row[2]:
            return
        found = dict(zip(mutants, self._replayed(tape, mutants), strict=True)) if tape else {}
        for index in others:
            letter, ended = found.get(index, (DIFFERS, Ended("ok", "")))
            later = self._later(index, letter, ended, row, differs=index in found)
            # What only the played calls ended, the tests had no part in.
            if letter != TOLD and index in first and first[index][1:4] != later[1:4]:
                if "timeout" not in (first[index][1], later[1]):
                    yield _ended(reference, _REMEMBERS)
                    return
                later[-1] = False  # by a hair or on purpose: it isn't told apart
            yield later

    def _later(
        self, index: int, letter: int, ended: Ended, reference: _Row, *, differs: bool
    ) -> _Row:
        """The row of a version, by what became of it when the tests' calls were played to it."""
        if letter == SAME:
            return [index, "ok", reference[2], [], reference[4], None, "", False]
        if letter == DIFFERS:
            return [*self._tested(index)[0][:-1], differs]
        return _ended(index, ended, differs=True)

    def _tested(self, index: int, *, recorded: bool = False) -> tuple[_Row, Tape]:
        """Run the tests on one version: its row, and the exchange if it is asked for."""
        host = _Host(self._targets, self._helper, self._walls)
        measured = index in self._job["coverage_of"]
        self._helper.fork(self._cpu_s, self._setup)
        answer, ended = host.test(index, measured=measured, recorded=recorded)
        if answer is None:
            return _ended(index, host.end()), []
        said, status, message = answer
        row = _row(index, said, status, message, ended)
        extra = host.measured() if measured or recorded else None
        host.end()
        if extra is None:
            return row, []
        row[5] = extra[0] if row[1] == "ok" else None
        return row, [(comes_in, frame) for comes_in, frame in extra[1]]

    def _replayed(self, tape: Tape, indices: Sequence[int]) -> Iterator[tuple[int, Ended]]:
        """(what became of it, how if it ended) for each version, by as few processes as can be."""
        left = list(indices)
        while left:
            board = mmap(-1, len(left))
            work = partial(self._targets.replay, tape, tuple(left), board)
            worker = Worker(work, self._walls)
            told = list(iter(worker.result, None))
            ended = worker.end()
            found = bytes(board).rstrip(b"\0")
            for letter in found:
                yield letter, Ended(*told.pop(0)) if letter == TOLD else ended
            del left[: len(found)]
            if left:  # the next one crashed it
                del left[0]
                yield TOLD, ended


def _decoys(mutants: Sequence[int]) -> list[int]:
    """The versions that the tests meet before the reference, one to five, in secret order.

    Tests without expected values could keep the reference's answers and compare those of all others
    with them, if they knew that the first that they meet, or the fourth, is the reference.
    """
    secret = random.SystemRandom()
    return secret.sample(mutants, secret.randint(1, min(_DECOYS, len(mutants)))) if mutants else []


def _row(index: int, said: bytes, status: str, message: str, ended: Ended) -> _Row:
    """What the tests say of themselves; of tests that did not end, how their process did."""
    if ended == SPOILT:
        return _ended(index, SPOILT)
    if status == "lost":
        status, message = ("malformed", message) if message else ended
    if status != "ok":
        return _ended(index, Ended(status, message))
    try:
        notes, count = codec.decode(said)
        notes = [Note(*note) for note in notes]
        passed = [note.name for note in notes if not note.failure]
        failed = [note.name for note in notes if note.failure and note.name]
        message = next((note.failure for note in notes if note.failure), "")
        status = next((note.status for note in notes if note.status != "ok"), "ok")
    except (codec.CodecError, TypeError, ValueError):
        return _ended(index, Ended("malformed", "not a result"))
    return [index, status, passed, failed, count, None, message, False]


def _ended(index: int, ended: Ended, *, differs: bool = False) -> _Row:
    """A version on which the tests did not come to their end."""
    return [index, ended.status, [], [], 0, None, ended.message, differs]

"""The trusted side of generated tests: a version of the code that is served, or many replayed to.

Runs in a process of its own that only loads code of the row (the correct version and mutants).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from mmap import mmap
from typing import Any, Final

from astor_rl.sandbox import codec
from astor_rl.sandbox.inside import modules
from astor_rl.sandbox.inside.measure import Measurement, Target
from astor_rl.sandbox.inside.proxy.access import Access, Guarded
from astor_rl.sandbox.inside.proxy.channel import GONE, Channel, Line, Lost
from astor_rl.sandbox.inside.proxy.desk import Desk
from astor_rl.sandbox.inside.proxy.importing import importable
from astor_rl.sandbox.inside.proxy.peer import LIMIT, Peer
from astor_rl.sandbox.inside.proxy.process import FRAME
from astor_rl.sandbox.inside.proxy.tape import Player, Recorder, Tape
from astor_rl.sandbox.inside.tests import Deadline, as_it_was, deadline, failure
from astor_rl.sandbox.inside.tests import importable as imported

SAME, DIFFERS, TOLD = b"sdt"
"""What became of a version to which the tests' calls were played."""
TEST: Final = "test"
ENDED: Final = "ended"
MEASURE: Final = "measure"

_measurement: Final = Measurement()


class _Desk(Desk):
    """Has the trace function that it finds only while something is asked of the version.

    Nothing else is measured, and all that the exchange runs would be slowed several times.
    """

    def __init__(self, access: Access, names: frozenset[str]) -> None:
        super().__init__(access, names)
        self._trace = sys.gettrace()
        sys.settrace(None)

    def perform(self, operation: str, operands: tuple[Any, ...]) -> Any:
        """See `Desk.perform`."""
        if self._trace is None or sys.gettrace() is not None:  # or in a call back of a call
            return super().perform(operation, operands)
        sys.settrace(self._trace)
        try:
            return super().perform(operation, operands)
        finally:
            sys.settrace(None)


class Targets:
    """The versions of one row.

    Args:
        job: a `TestsJob` as the pool sends it.
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._job = job
        self._names = importable([f"{job['module']}.py", *job["support"]])

    def serve(self, reads: int, writes: int, commands: int, results: int) -> None:
        """Do what the commands say, until there are none.

        Raises:
            Lost: there are none.
        """
        # Not ahead: the exchange ends when there is a command, which must not have been taken yet.
        line = Channel(commands, results, FRAME, ahead=False)
        measured: Target | None = None
        tape: Tape = []
        while True:
            word, *rest = codec.decode(line.receive())
            if word == TEST:
                index, is_measured, is_recorded = rest
                recorder = Recorder(Channel(reads, writes, FRAME, commands))
                measured = self._target(index, is_measured)
                with as_it_was():
                    said, status, message = self._run(measured, recorder)
                tape = recorder.tape if is_recorded and recorder.whole else []
                line.send(codec.encode([said, status, message], LIMIT))
            elif word == MEASURE and measured is not None:
                # Only now that no test is left: it puts the source into a file.
                counts = measured.coverage()
                frames = [[comes_in, frame] for comes_in, frame in tape]
                line.send(codec.encode([counts, frames], FRAME))

    def replay(
        self, tape: Tape, indices: Sequence[int], board: mmap, commands: int, results: int
    ) -> None:
        """Play what the tests did to several versions.

        On the board a letter for each: `SAME`, `DIFFERS`, or `TOLD`, for which `[status, message]`
        is sent. A shared page, since a message for each would cost more than the rest.
        """
        line = Channel(commands, results, FRAME)
        with as_it_was():
            for place, index in enumerate(indices):
                player = Player(tape)
                _, status, message = self._run(self._target(index, False), player)
                if status == "ok" or (status == "lost" and player.differs):
                    board[place] = DIFFERS if player.differs else SAME
                else:
                    line.send(codec.encode([status, message], LIMIT))
                    board[place] = TOLD

    def _target(self, index: int, measured: bool) -> Target:
        return _measurement.target(self._job["module"], self._job["targets"][index], measured)

    def _run(self, target: Target, line: Line) -> tuple[bytes, str, str]:
        """(what the tests said at last, status, message) on one version.

        The status is `ok`, `error` (it did not load), `timeout`, or `lost`.
        """
        finder = modules.SourceFinder(self._job["support"])
        with imported(finder, (self._job["module"],)):
            random.seed(self._job["seed"])
            try:
                with deadline(self._job["per_target_s"]), _measurement.stopped():
                    error = failure(target.load)
                    if error is not None:
                        return b"", "error", f"the target did not load: {modules.one_line(error)}"
                    desk = _Desk(Guarded(self._names, private=True), self._names)
                    return Peer(line, desk, fatal=(Deadline,)).serve(), "ok", ""
            except Deadline as late:
                return b"", "timeout", f"over {late} s"
            except Lost as lost:
                return b"", "lost", "" if str(lost) == GONE else str(lost)

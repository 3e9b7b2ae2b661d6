"""An exchange that is written down, and played again to another version of the code."""

from __future__ import annotations

from typing import Final

from astor_rl.sandbox.inside.proxy.channel import GONE, Line, Lost

LONGEST: Final = 8 << 20
"""Bytes of an exchange beyond which it isn't kept."""
Tape = list[tuple[bool, bytes]]
"""Frames in order, each with whether it came in."""


class Recorder:
    """Passes frames on and writes them down.

    Attributes:
        tape: the exchange so far.
        whole: whether all of it is kept.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self.tape: Tape = []
        self.whole = True
        self._left = LONGEST

    def _keep(self, comes_in: bool, frame: bytes) -> None:
        self._left -= len(frame)
        self.whole = self._left >= 0
        if self.whole:
            self.tape.append((comes_in, frame))

    def send(self, frame: bytes) -> None:
        """See `Line.send`."""
        self._keep(False, frame)
        self._line.send(frame)

    def receive(self) -> bytes:
        """See `Line.receive`."""
        frame = self._line.receive()
        self._keep(True, frame)
        return frame


class Player:
    """Says what was said, as long as it gets the answers of that time.

    Attributes:
        differs: whether it got others; stays so, even if the code swallows `Lost`.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = iter(tape)
        self.differs = False

    def _next(self, comes_in: bool) -> bytes:
        expected, frame = next(self._tape, (not comes_in, b""))
        if self.differs or expected is not comes_in:
            self.differs = True
            raise Lost(GONE)
        return frame

    def send(self, frame: bytes) -> None:
        """Compare a frame with the one of that time.

        Raises:
            Lost: it is another one.
        """
        if self._next(False) != frame:
            self.differs = True
            raise Lost(GONE)

    def receive(self) -> bytes:
        """The next frame of that time.

        Raises:
            Lost: it was not this side's turn.
        """
        return self._next(True)

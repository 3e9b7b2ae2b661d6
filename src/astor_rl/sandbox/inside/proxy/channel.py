"""Frames over a pair of pipes."""

from __future__ import annotations

import os
import select
import struct
from typing import Final, Protocol

_LENGTH: Final = struct.Struct("<I")
_CHUNK: Final = 1 << 16
GONE: Final = "the other process is gone"
"""What `Lost` says when nothing more comes."""

# Bound now: code under test may replace these functions in their module.
_read, _write = os.read, os.write


class Lost(BaseException):
    """The other side is gone or talks nonsense.

    Not an `Exception`: a test that expects some exception shall not take this for one.
    """


class Line(Protocol):
    """What frames are sent and received on."""

    def send(self, frame: bytes) -> None:
        """Send a frame.

        Raises:
            Lost: there is nobody who would take it.
        """

    def receive(self) -> bytes:
        """The next frame.

        Raises:
            Lost: there is none.
        """


class Channel:
    """One end of a two-way connection.

    Args:
        reads: descriptor of the pipe that the other side writes to.
        writes: descriptor of the pipe that it reads from.
        limit: bytes of the largest frame.
        ends: a descriptor that can be read once nothing more will come, where others hold the
            pipe open.
        ahead: whether more may be read than the frame that is asked for; it costs fewer calls, but
            nobody else can tell by the pipe whether there is another frame.
    """

    def __init__(
        self,
        reads: int,
        writes: int,
        limit: int,
        ends: int | None = None,
        *,
        ahead: bool = True,
    ) -> None:
        self._reads = reads
        self._writes = writes
        self._limit = limit
        self._waiting = b""
        self._ends = ends
        self._chunk = _CHUNK if ahead else 0
        self._poll = select.poll()
        for descriptor in (reads,) if ends is None else (reads, ends):
            self._poll.register(descriptor, select.POLLIN)

    def send(self, frame: bytes) -> None:
        """Send a frame; blocks until the other side takes it.

        Raises:
            Lost: nobody reads any more.
        """
        view = memoryview(_LENGTH.pack(len(frame)) + frame)
        try:
            while view:
                view = view[_write(self._writes, view) :]
        except OSError as error:
            raise Lost(GONE) from error

    def receive(self) -> bytes:
        """The next frame.

        Raises:
            Lost: there is none, or it is larger than the limit.
        """
        (size,) = _LENGTH.unpack(self._take(_LENGTH.size))
        if size > self._limit:
            raise Lost(f"a message of {size} bytes; at most {self._limit} are read")
        return self._take(size)

    def _take(self, size: int) -> bytes:
        if len(self._waiting) < size:
            self._fill(size)
        taken, self._waiting = self._waiting[:size], self._waiting[size:]
        return taken

    def _fill(self, size: int) -> None:
        parts, have = [self._waiting], len(self._waiting)
        while have < size:
            try:
                # What was written comes first, even if the writer has ended since.
                if self._ends is not None and self._reads not in dict(self._poll.poll()):
                    break
                part = _read(self._reads, max(self._chunk, size - have))
            except OSError as error:
                raise Lost(GONE) from error
            if not part:
                break
            parts.append(part)
            have += len(part)
        else:
            self._waiting = b"".join(parts)
            return
        raise Lost(GONE)

"""Stopping between steps: Ctrl-C or SIGTERM asks, a second one insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ASKS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether someone asked to stop."""

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def graceful_stop(note: Callable[[str], None]) -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request that a loop checks between steps.

    The second raises `KeyboardInterrupt` at once. Only the main thread can handle signals;
    elsewhere this does nothing.

    Args:
        note: tells the person what happens now.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        if request.asked:
            raise KeyboardInterrupt
        request.asked = True
        note("stopping after this step, with a checkpoint; once more stops at once")

    before = {number: signal.signal(number, handle) for number in _ASKS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

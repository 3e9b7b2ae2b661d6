"""Stopping between steps: Ctrl-C or SIGTERM asks, a second one insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ASKS = (signal.SIGINT, signal.SIGTERM)
"""What a person or a scheduler sends."""

INSIST = signal.SIGUSR1
"""What the parent of several processes sends them when it has been asked twice."""


class StopRequest:
    """Whether someone asked to stop."""

    def __init__(self) -> None:
        self.asked = False


class _AskOnce:
    """Handles a request to stop, however often it arrives."""

    def __init__(self) -> None:
        self.heard = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.heard:
            self.heard = True
            raise KeyboardInterrupt


def _insist(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def obey_parent() -> None:
    """In one of several processes: a repeated request is still one, only the parent insists.

    A terminal sends Ctrl-C to parent and children alike, a scheduler sends SIGTERM to the parent
    or to all, and the parent passes on what it gets. So a child may hear the same request twice,
    which must not cost the checkpoint. "At once" has a signal of its own, `INSIST`.
    """
    ask = _AskOnce()
    for number in ASKS:
        signal.signal(number, ask)
    signal.signal(INSIST, _insist)


@contextmanager
def hearing(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within the block requests to stop go to `handle`, which takes what a signal handler does.

    Only the main thread can handle signals; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in ASKS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def graceful_stop(note: Callable[[str], None]) -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request that a loop checks between steps.

    The second raises `KeyboardInterrupt` at once (after `obey_parent`: the parent's `INSIST`
    does). Only the main thread can handle signals; elsewhere this does nothing.

    Args:
        note: tells the person what happens now.
    """
    request = StopRequest()
    outside = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        if isinstance(outside, _AskOnce):
            outside.heard = True
        elif request.asked:
            raise KeyboardInterrupt
        if not request.asked:
            request.asked = True
            note("stopping after this step, with a checkpoint; once more stops at once")

    with hearing(handle):
        yield request

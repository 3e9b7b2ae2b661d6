"""Processes that take turns on the same cores, so that what they are compared by is paired."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

from benchmarks.common import ROOT, tell

Answer = dict[str, Any]


class Contender:
    """A worker process, stopped except in its turn.

    It writes a JSON line with `start_s` when it is ready, then one for each line it reads.

    Args:
        kind: its name.
        command: what to run, in the checkout.
        environment: variables it has besides this process's.

    Attributes:
        rounds: its answers that count, in order; whoever runs the race adds them.
        start_s: seconds it took to get ready.
    """

    def __init__(
        self, kind: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.kind = kind
        self.rounds: list[Answer] = []
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        try:
            self.start_s = float(self._answer()["start_s"])
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)

    def _answer(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.kind} ended with exit code {self._process.wait()}")
        answer: Answer = json.loads(line)
        return answer

    def go(self) -> Answer:
        """One round."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        answer = self._answer()
        self._signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        """End it and everything it started."""
        if self._process.poll() is None:
            self._signal(signal.SIGKILL)
        self._process.communicate()


@contextmanager
def running(
    commands: Mapping[str, Sequence[str]], environment: Mapping[str, str] | None = None
) -> Iterator[list[Contender]]:
    """A contender for each (kind, command), started one after another; all end with the block."""
    with ExitStack() as stack:
        found = []
        for kind, command in commands.items():
            found.append(contender := Contender(kind, command, environment))
            stack.callback(contender.close)
            tell(f"{kind} started in {contender.start_s:.0f} s")
        yield found


def in_turns(
    contenders: Sequence[Contender], rounds: int, *, warm_up: int = 1
) -> Iterator[tuple[int, Contender]]:
    """(round, contender) to `rounds`, after rounds 0, -1, … to warm up; who begins changes."""
    for number in range(1 - warm_up, rounds + 1):
        turn = number % len(contenders)
        for contender in (*contenders[turn:], *contenders[:turn]):
            yield number, contender


def end_on_sigterm() -> None:
    """Unwind on SIGTERM, so that nobody who is stopped stays behind."""
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)

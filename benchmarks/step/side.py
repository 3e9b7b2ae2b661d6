"""What a worker of either side needs: the setting it is given, its counts, its answers.

TRL may be in an environment of its own: the standard library and torch only.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

WARM_UP: Final = 3
"""Rounds until both sides' memory has stopped growing, one gradient probe included."""

PROBE_EVERY: Final = 4
"""Steps from one gradient probe to the next: the second round that counts has one."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What both sides do in a step.

    Attributes:
        folder: the model's. Its tokenizer has no end-of-sequence token where lengths are equal,
            and a frequent one where they are ragged.
        rows: folder with a JSON Lines file of prompts for each task; a step takes all of them.
        tasks: how many.
        prompts: of all tasks together.
        generations: completions of each prompt.
        tokens: the longest completion.
        prompt_tokens: the longest rendered prompt.
        lora: train an adapter as the quickstart does, else all weights.
        beta: weight of the KL to the reference.
        learning_rate: of AdamW.
    """

    folder: str
    rows: str
    tasks: int
    prompts: int
    generations: int
    tokens: int
    prompt_tokens: int
    lora: bool
    beta: float = 0.005
    learning_rate: float = 1e-6

    def save(self, path: Path) -> Path:
        """Write it for the workers."""
        path.write_text(json.dumps(asdict(self)))
        return path

    @classmethod
    def load(cls, path: str) -> Setting:
        """As `save` wrote it."""
        return cls(**json.loads(Path(path).read_text()))

    def row_files(self) -> list[Path]:
        """The prompts' files, a task each."""
        return [Path(self.rows) / f"task{k}.jsonl" for k in range(self.tasks)]

    def prompt_rows(self) -> list[dict[str, Any]]:
        """All tasks' rows, as both sides read them."""
        return [
            json.loads(line) for path in self.row_files() for line in path.read_text().splitlines()
        ]


class Counts:
    """Tokens that go through any model of this process, and seconds, by phase.

    Padding counts: it is computed. Phases nest; the innermost gets the tokens and the time.
    """

    def __init__(self) -> None:
        self.tokens: Counter[str] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self._phases = ["rest"]
        self._since = time.perf_counter()
        self._hook = register_module_forward_hook(self._embedded)

    def _embedded(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Embedding):
            self.tokens[self._phases[-1]] += int(torch.as_tensor(args[0]).numel())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What happens inside is that phase's."""
        self._book()
        self._phases.append(name)
        try:
            yield
        finally:
            self._book()
            self._phases.pop()

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Make calls of an object's method a phase."""
        call = getattr(owner, method)

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return call(*args, **kwargs)

        setattr(owner, method, counted)

    def _book(self) -> None:
        now = time.perf_counter()
        self.seconds[self._phases[-1]] += now - self._since
        self._since = now

    def reset(self) -> None:
        """Begin again."""
        self._book()
        self.tokens.clear()
        self.seconds.clear()

    def close(self) -> None:
        """Stop counting."""
        self._hook.remove()


class Answers:
    """Where a worker's answers go, when libraries print too."""

    def __init__(self) -> None:
        self._stream: TextIO = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._started = time.perf_counter()

    def ready(self) -> None:
        """Say that rounds may begin."""
        self.say(start_s=time.perf_counter() - self._started)

    def say(self, **fields: Any) -> None:
        """Answer a round."""
        print(json.dumps(fields), file=self._stream, flush=True)


class Meter:
    """Wall and CPU seconds of a round, and this process's peak memory."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def read(self) -> dict[str, float]:
        """`s`, `cpu_s` (all threads) and `peak_kib` since the process began."""
        return {
            "s": time.perf_counter() - self._wall,
            "cpu_s": time.process_time() - self._cpu,
            "peak_kib": peak_kib(),
        }


def peak_kib() -> int:
    """The most memory this program had resident, KiB; unlike rusage's, not its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise OSError("/proc/self/status has no VmHWM")


def told_to_go() -> bool:
    """Wait for the next round; False when there is none."""
    return bool(sys.stdin.readline())

"""One process per device on one machine: who am I, and the few collectives a step needs.

Every helper works, and costs nothing, in a single process. Ranks share nothing but what passes
through here: rank 0 plans and writes files, every rank samples, scores and backpropagates its
own groups, gradients are summed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from astor_rl.engines.local.launch import launch
from astor_rl.errors import ConfigError, DataError, RankError

__all__ = ["World", "launch", "processes_wanted", "under_launcher", "world"]

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""How long a process waits for another: one may mine, download or judge while the rest wait."""


@dataclass(frozen=True, slots=True)
class World:
    """This process among the others.

    Attributes:
        rank: 0 .. size-1. Rank 0 owns the coordinator, the run folder and the console.
        size: how many processes train together.
        device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process plans and writes."""
        return self.rank == 0

    def mine(self, items: Sequence[T]) -> list[T]:
        """This rank's part of a list that every rank holds."""
        return list(items[self.rank :: self.size])

    def broadcast(self, value: T | None) -> T:
        """Rank 0's value, on every rank. Plain Python objects; for plans, not for tensors."""
        box: list[Any] = [value]
        if self.size > 1:
            with _together("broadcast"):
                dist.broadcast_object_list(box, src=0)
        result: T = box[0]
        return result

    def gather(self, value: T) -> list[T]:
        """Every rank's value, on every rank, in rank order."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        with _together("gather"):
            dist.all_gather_object(box, value)
        return box

    def sum_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Sum each tensor over ranks, in place. All ranks must pass the same shapes in order."""
        if self.size > 1:
            with _together("sum"):
                for tensor in tensors:
                    dist.all_reduce(tensor)

    def barrier(self) -> None:
        """Wait for everyone."""
        # On the CPU also where there are GPUs: NCCL's barrier doesn't notice that a peer is gone.
        self.sum_([torch.zeros(1)])

    def require_same(self, name: str, value: str) -> None:
        """Make sure that every rank holds the same `value`, e.g. a digest of its data.

        Args:
            name: what it is, for the message.
            value: short: it is shown.

        Raises:
            DataError: on every rank, with each value and the ranks that hold it.
        """
        holders: dict[str, list[int]] = {}
        for rank, theirs in enumerate(self.gather(value)):
            holders.setdefault(theirs, []).append(rank)
        if len(holders) > 1:
            found = "; ".join(
                f"{theirs!r} in process {', '.join(map(str, ranks))}"
                for theirs, ranks in holders.items()
            )
            raise DataError(f"{name} must be the same in all processes, but is {found}")


@contextmanager
def _together(what: str) -> Iterator[None]:
    """A collective's failure as `RankError`: it is another process's doing, not this one's."""
    try:
        yield
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise RankError(
            f"{what}: the other processes can't be reached; has one of them ended? ({said})"
        ) from error


def backends(*, cuda: bool) -> str:
    """The process group's backend for each device; counts are summed on the CPU in any case."""
    return "cpu:gloo,cuda:nccl" if cuda else "gloo"


@contextmanager
def world(*, threads: int = 0) -> Iterator[World]:
    """Join the process group that `torchrun` (or `launch`) described, or stand alone.

    Args:
        threads: CPU threads for torch in this process; 0 keeps torch's choice.

    Raises:
        RankError: the others can't be reached.
    """
    if threads:
        torch.set_num_threads(threads)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        yield World(0, 1, device)
        return
    with _together("meet"):
        dist.init_process_group(backends(cuda=cuda), timeout=PATIENCE)
    yield World(rank, size, device)
    # Not after an error: NCCL would wait for work that the others never do, and the error would
    # not get out. Leaving the process frees everything.
    dist.destroy_process_group()


def processes_wanted(configured: int) -> int:
    """How many processes a run should have: the configured number, else one per GPU, else one.

    Raises:
        ConfigError: more processes than GPUs, where there are GPUs.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus and configured > gpus:
        raise ConfigError(f"num_processes is {configured} and there are {gpus} GPUs; one each")
    return configured or max(1, gpus)


def under_launcher() -> bool:
    """Whether torchrun or `launch` already started this process as one of several."""
    return "WORLD_SIZE" in os.environ

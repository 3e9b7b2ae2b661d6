"""One process per device on one machine: who am I, and the few collectives a step needs.

Every helper works, and costs nothing, in a single process. Ranks share nothing but what passes
through here: rank 0 plans and writes files, every rank samples, scores and backpropagates its
own groups, gradients are summed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


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
            dist.broadcast_object_list(box, src=0)
        result: T = box[0]
        return result

    def gather(self, value: T) -> list[T]:
        """Every rank's value, on every rank, in rank order."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value)
        return box

    def sum_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Sum each tensor over ranks, in place. All ranks must pass the same shapes in order."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def barrier(self) -> None:
        """Wait for everyone."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def world(*, threads: int = 0) -> Iterator[World]:
    """Join the process group that `torchrun` (or `launch`) described, or stand alone.

    Args:
        threads: CPU threads for torch in this process; 0 keeps torch's choice.
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
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield World(rank, size, device)
    finally:
        dist.destroy_process_group()


def processes_wanted(configured: int) -> int:
    """How many processes a run should have: the configured number, else one per GPU, else one."""
    if configured:
        return configured
    return max(1, torch.cuda.device_count()) if torch.cuda.is_available() else 1


def under_launcher() -> bool:
    """Whether torchrun or `launch` already started this process as one of several."""
    return "WORLD_SIZE" in os.environ


def launch(target: Callable[..., None], args: tuple[Any, ...], *, processes: int) -> None:
    """Run `target(*args)` in `processes` processes on this machine and wait for all.

    `target` must be importable (it is pickled by name). If one process fails, the others are
    stopped and its exception is raised here.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn: Callable[..., Any] = start_processes  # untyped in torch
    spawn(_entry, (target, args, processes, port), nprocs=processes)


def _entry(
    rank: int, target: Callable[..., None], args: tuple[Any, ...], size: int, port: int
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    target(*args)

"""Engines that sample nothing: they take prompts and send back rewards, late and out of order.

A message is what a cluster would carry: a pickled list of plan items out, a pickled list of group
outcomes back. Processes with pipes here, or actors of Ray where it is installed.
"""

from __future__ import annotations

import multiprocessing
import pickle
import queue
import threading
import zlib
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import numpy as np

from astor_rl.plan import GroupOutcome, PlanItem

Work = tuple[int, list[PlanItem]]
"""A plan's id and some of its items: the groups of one engine."""


class Fleet(Protocol):
    """Somewhere to send work to."""

    def send(self, messages: Sequence[bytes]) -> None:
        """Hand out messages, each a pickled `Work`; returns at once."""

    def receive(self) -> list[bytes]:
        """Wait for answers, each a pickled (plan id, outcomes); at least one."""

    def close(self) -> None:
        """Stop the engines."""


def answer(message: bytes, rng: np.random.Generator) -> bytes:
    """Outcomes of one engine's groups: a prompt's chance of success is a hash of its key."""
    plan_id, items = pickle.loads(message)
    outcomes = []
    for place in rng.permutation(len(items)):
        item = items[place]
        chance = zlib.crc32(f"{item.task} {item.key}".encode()) / 2**32
        rewards = (rng.random(item.num_generations) < chance).astype(float)
        outcomes.append(GroupOutcome(item.slot, tuple(rewards.tolist()), tokens=2_000))
    return pickle.dumps((plan_id, outcomes))


class ProcessFleet:
    """Worker processes; each stands for many engines, and answers what it has in random order."""

    def __init__(self, processes: int = 1) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for seed in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, seed), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def send(self, messages: Sequence[bytes]) -> None:
        """Deal the messages to the processes."""
        for number, pipe in enumerate(self._pipes):
            mine = messages[number :: len(self._pipes)]
            if mine:
                pipe.send(mine)

    def receive(self) -> list[bytes]:
        """What any process has answered."""
        answers: list[bytes] = []
        ready = set(wait(self._pipes))
        for pipe in self._pipes:
            if pipe in ready:
                answers += pipe.recv()
        return answers

    def close(self) -> None:
        """Ask the processes to end and wait for them."""
        for pipe in self._pipes:
            pipe.send(None)
            pipe.close()
        for process in self._processes:
            process.join()


_BATCH = 64
"""Answers that travel together, so that the pipe is not what is measured."""


def _serve(pipe: Connection, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inbox: queue.SimpleQueue[list[bytes] | None] = queue.SimpleQueue()
    # Read by a thread: two sides that both wait for room in a full pipe would wait for ever.
    threading.Thread(target=_listen, args=(pipe, inbox), daemon=True).start()
    pending: list[bytes] = []
    while True:
        while not pending or not inbox.empty():
            messages = inbox.get()
            if messages is None:
                return
            pending += messages
        # Any of all plans at hand: answers of a later plan overtake an earlier one's.
        chosen = rng.permutation(len(pending))[:_BATCH].tolist()
        pipe.send([answer(pending[place], rng) for place in chosen])
        kept = set(chosen)
        pending = [message for place, message in enumerate(pending) if place not in kept]


def _listen(pipe: Connection, inbox: queue.SimpleQueue[list[bytes] | None]) -> None:
    messages: list[bytes] | None = []
    while messages is not None:
        try:
            messages = pipe.recv()
        except EOFError:
            messages = None
        inbox.put(messages)


class RayFleet:
    """Actors of Ray; needs ray."""

    def __init__(self, actors: int = 1) -> None:
        import ray

        ray.init(num_cpus=actors, include_dashboard=False, log_to_driver=False)
        self._ray = ray
        self._actors = [ray.remote(_Engine).remote(seed) for seed in range(actors)]
        self._waiting: list[Any] = []

    def send(self, messages: Sequence[bytes]) -> None:
        """Deal the messages to the actors, a batch a call."""
        for start in range(0, len(messages), _BATCH):
            actor = self._actors[(start // _BATCH) % len(self._actors)]
            self._waiting.append(actor.answers.remote(list(messages[start : start + _BATCH])))

    def receive(self) -> list[bytes]:
        """The first call that is done."""
        done, self._waiting = self._ray.wait(self._waiting)
        answers: list[bytes] = self._ray.get(done[0])
        return answers

    def close(self) -> None:
        """Stop Ray."""
        self._ray.shutdown()


class _Engine:
    """The actor's body."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def answers(self, messages: Sequence[bytes]) -> list[bytes]:
        order = self._rng.permutation(len(messages)).tolist()
        return [answer(messages[place], self._rng) for place in order]


FLEETS: dict[str, Callable[[int], Fleet]] = {"processes": ProcessFleet, "ray": RayFleet}

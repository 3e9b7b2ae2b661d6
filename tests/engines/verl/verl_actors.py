"""Actors for tests, in a module that Ray's processes can import."""

from __future__ import annotations

import os
import signal
from typing import Any

import ray

from astor_rl.errors import PlanError


class Worker:
    """Lives until it is killed, and does what a worker may do in the middle of a step."""

    def plan(self) -> None:
        raise PlanError("plan 3: the batch holds another step's")

    def fail(self) -> None:
        raise ValueError("line one\nline two")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Driver:
    """Calls a worker and waits, as verl's driver does."""

    def run(self, what: str) -> None:
        worker: Any = ray.remote(Worker).options(num_cpus=0).remote()
        ray.get(getattr(worker, what).remote())

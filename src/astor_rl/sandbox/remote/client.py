"""`RemotePool`: the pool's API, with the workers on other machines."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Final, Self

from astor_rl.errors import SandboxError
from astor_rl.sandbox import protections
from astor_rl.sandbox.api import Job, Outcome
from astor_rl.sandbox.ordered import in_order
from astor_rl.sandbox.pool import READ_AHEAD
from astor_rl.sandbox.remote.fleet import Fleet
from astor_rl.sandbox.remote.forms import WireError
from astor_rl.sandbox.remote.link import Access, Request

PATIENCE_S: Final = 120.0
"""How long all servers may be away before jobs fail, seconds."""


class RemotePool:
    """Runs untrusted code on sandbox servers. Thread-safe; use as a context manager.

    A job whose server goes away runs again on another. A server that is away is asked again now
    and then, and one that is full is left alone for a while.

    Args:
        urls: servers (`https://host:port`), at least one of which must answer.
        token: the secret they share with this trainer; empty shows none.
        ca_file: PEM file of the authorities that signed their certificates; None: the system's.
        insecure: allow `http://` to other machines.
        allow_missing: protections (names of `protections.GUARANTEES`) a server may lack.
        patience_s: how long all servers may be away before jobs fail, seconds.

    Raises:
        SandboxError: none answers, a token is wrong, or a server isn't fit for this trainer.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        token: str = "",
        ca_file: str | None = None,
        insecure: bool = False,
        allow_missing: Sequence[str] = (),
        patience_s: float = PATIENCE_S,
    ) -> None:
        protections.check_names(allow_missing)
        if not urls:
            raise SandboxError("a remote pool needs at least one server's url")
        if twice := sorted({url for url in urls if list(urls).count(url) > 1}):
            raise SandboxError(f"sandbox url {twice[0]!r} is there twice")
        access = Access(token, ca_file, insecure, tuple(allow_missing))
        self._fleet = Fleet(urls, access, patience_s=patience_s)
        self._finalizer = weakref.finalize(self, _close, self._fleet, os.getpid())

    @property
    def workers(self) -> int:
        """Jobs at a time on all servers that have answered."""
        return self._fleet.workers

    async def submit(self, job: Job) -> Outcome:
        """Run one job. Never raises for what the job's code does.

        Raises:
            SandboxError: the pool is closed, no server has answered for `patience_s`, or the
                servers' sandbox doesn't work.
        """
        return await asyncio.wrap_future(self._enqueue(job))

    def map(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Run many, results in the order of the jobs, with bounded read-ahead."""
        return in_order(jobs, self._enqueue, READ_AHEAD * self.workers)

    def _enqueue(self, job: Job) -> Future[Outcome]:
        try:
            request = Request.of(job)
        except WireError as error:
            # No verdict on the job's code: it never ran.
            future: Future[Outcome] = Future()
            future.set_result(Outcome(status="infra_error", message=f"sandbox failure: {error}"))
            return future
        return self._fleet.enqueue(request)

    def close(self) -> None:
        """Drop everything under way and wait until it is gone. Idempotent."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _close(fleet: Fleet, owner: int) -> None:
    if os.getpid() == owner:  # a fork of the trainer has the sockets, but not the thread
        fleet.close()

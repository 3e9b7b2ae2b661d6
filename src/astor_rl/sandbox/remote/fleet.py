"""Several sandbox servers as one: each takes jobs from one queue as fast as it has places.

Everything here runs in one event loop, on a thread of its own, because jobs come from several
loops and threads. A server has twice as many pullers as workers, so that its next jobs wait there
already; so the fastest server gets the most jobs, and one that is out gets none.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from astor_rl.errors import SandboxError
from astor_rl.sandbox.api import Outcome
from astor_rl.sandbox.remote.link import Access, Busy, Failed, Link, Request, Unreached
from astor_rl.sandbox.remote.wire import ServerInfo

_logger = logging.getLogger(__name__)

CONNECT_S: Final = 10.0
"""How long the first server may take to answer, seconds."""
_ATTEMPTS: Final = 3
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 5.0
_CLOSED: Final = "the sandbox pool was closed"


@dataclass(order=True)
class _Entry:
    """A job on its way. Ordered by age: one that comes back to the queue is the next."""

    number: int
    request: Request = field(compare=False)
    future: Future[Outcome] = field(compare=False)
    begun: bool = field(default=False, compare=False)
    lost: int = field(default=0, compare=False)
    failed: int = field(default=0, compare=False)

    def begin(self) -> bool:
        """False if nobody waits for it any more."""
        self.begun = self.begun or self.future.set_running_or_notify_cancel()
        return self.begun

    def fail(self, message: str) -> None:
        if self.begin():
            self.future.set_exception(SandboxError(message))


class _Host:
    """A server and what the fleet knows of it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.up = asyncio.Event()
        self.doubted = asyncio.Event()
        self.reason = "not asked yet"
        self.info: ServerInfo | None = None
        self.pullers: list[asyncio.Task[None]] = []


class Fleet:
    """The servers of one pool, with their event loop and thread.

    Args:
        urls: at least one.
        access: see `Access`.
        patience_s: how long all servers may be away before waiting jobs fail, seconds.

    Raises:
        SandboxError: no server answers, or one doesn't suit.
    """

    def __init__(self, urls: Sequence[str], access: Access, *, patience_s: float) -> None:
        self._patience_s = patience_s
        self._numbers = itertools.count()
        self._queue: asyncio.PriorityQueue[_Entry] = asyncio.PriorityQueue()
        self._dark_since: float | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name="sandbox-remote", daemon=True)
        self._hosts: list[_Host] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._thread.start()
        try:
            self._call(self._connect(urls, access))
        except BaseException:
            self.close()
            raise

    def _live(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @property
    def workers(self) -> int:
        """Jobs at a time on the servers that have answered so far."""
        return sum(host.info.workers for host in self._hosts if host.info)

    def enqueue(self, request: Request) -> Future[Outcome]:
        """Put a job into the queue; from any thread.

        Raises:
            SandboxError: closed.
        """
        entry = _Entry(next(self._numbers), request, Future())
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox pool is closed")
            self._loop.call_soon_threadsafe(self._queue.put_nowait, entry)
        return entry.future

    def close(self) -> None:
        """Drop what is under way; waiting callers get a `SandboxError`. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if threading.current_thread() is self._thread:  # the collector may run there
            self._loop.create_task(self._end())
            return
        self._call(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _end(self) -> None:
        await self._shut()
        self._loop.stop()

    async def _shut(self) -> None:
        tasks = [*self._tasks, *(task for host in self._hosts for task in host.pullers)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fail_waiting(_CLOSED)
        for host in self._hosts:
            await host.link.close()

    async def _connect(self, urls: Sequence[str], access: Access) -> None:
        self._hosts = [_Host(Link(url, access)) for url in urls]
        end = time.monotonic() + CONNECT_S
        while True:
            await asyncio.gather(*(self._ask(host) for host in self._hosts))
            if any(host.up.is_set() for host in self._hosts):
                break
            if time.monotonic() >= end:
                raise SandboxError(f"no sandbox server answers: {self._reasons()}")
            await asyncio.sleep(_FIRST_PAUSE_S)
        for host in self._hosts:
            self._tasks.append(asyncio.create_task(self._watch(host)))
            if not host.up.is_set():
                host.doubted.set()

    async def _ask(self, host: _Host) -> bool:
        """Whether a server answers now; if so, it gets jobs.

        Raises:
            SandboxError: it answers and doesn't suit.
        """
        try:
            host.info = await host.link.check()
        except Unreached as error:
            host.reason = str(error)
            return False
        while len(host.pullers) < 2 * host.info.workers:
            host.pullers.append(asyncio.create_task(self._pull(host)))
        self._dark_since = None
        host.up.set()
        return True

    async def _watch(self, host: _Host) -> None:
        """Whenever a server is in doubt, ask until it answers."""
        while True:
            await host.doubted.wait()
            host.doubted.clear()
            pause, told = _FIRST_PAUSE_S, False
            while not await self._ask_again(host):
                if not told:
                    _logger.warning(
                        "sandbox server %s is out: %s; it is asked again now and then",
                        host.link.url,
                        host.reason,
                    )
                    told = True
                self._lose_patience()
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            if told:
                _logger.warning("sandbox server %s is back", host.link.url)

    async def _ask_again(self, host: _Host) -> bool:
        try:
            return await self._ask(host)
        except SandboxError as error:  # it came back as something else
            host.reason = str(error)
            return False

    def _doubt(self, host: _Host, reason: str) -> None:
        host.reason = reason
        host.up.clear()
        host.doubted.set()
        if self._dark_since is None and not any(other.up.is_set() for other in self._hosts):
            self._dark_since = time.monotonic()

    def _lose_patience(self) -> None:
        since = self._dark_since
        if since is not None and time.monotonic() - since >= self._patience_s:
            self._fail_waiting(
                f"no sandbox server has answered for {self._patience_s:g} s: {self._reasons()}"
            )

    def _reasons(self) -> str:
        return "; ".join(f"{host.link.url}: {host.reason}" for host in self._hosts)

    def _fail_waiting(self, message: str) -> None:
        while not self._queue.empty():
            self._queue.get_nowait().fail(message)

    async def _pull(self, host: _Host) -> None:
        """Take jobs from the queue to one server, one at a time."""
        while True:
            await host.up.wait()
            entry = await self._queue.get()
            if not host.up.is_set():
                self._queue.put_nowait(entry)
            elif entry.begin():
                await self._attempt(host, entry)

    async def _attempt(self, host: _Host, entry: _Entry) -> None:
        try:
            outcome = await host.link.run(entry.request)
        except Busy as busy:
            self._queue.put_nowait(entry)
            # Jitter: else all who were sent away come back at one time.
            await asyncio.sleep(busy.after_s * random.uniform(0.5, 1.5))
        except Unreached as error:
            self._lost(host, entry, error)
        except Failed as error:
            entry.failed += 1
            if entry.failed >= _ATTEMPTS:
                entry.fail(f"sandbox server {host.link.url}: {error}")
                return
            self._queue.put_nowait(entry)
            await asyncio.sleep(_FIRST_PAUSE_S)  # another server's pullers are quicker
        except asyncio.CancelledError:
            entry.fail(_CLOSED)
            raise
        except Exception as error:  # noqa: BLE001 - it belongs to who waits
            entry.future.set_exception(error)
        else:
            entry.future.set_result(outcome)

    def _lost(self, host: _Host, entry: _Entry, error: Unreached) -> None:
        """A job is safe to run twice; one that ends every server it meets is not tried for ever."""
        entry.lost += error.sent
        if entry.lost >= _ATTEMPTS:
            message = f"sandbox failure: {entry.lost} servers in turn gave no reply: {error}"
            entry.future.set_result(Outcome(status="infra_error", message=message))
        else:
            self._queue.put_nowait(entry)
        self._doubt(host, str(error))

"""The application of a sandbox server: requests in, jobs to the pool, replies out (ASGI)."""

from __future__ import annotations

import asyncio
import hmac
import platform
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from astor_rl import __version__
from astor_rl.errors import AstorError
from astor_rl.sandbox import probe, protections
from astor_rl.sandbox.api import Job, Outcome
from astor_rl.sandbox.pool import ProcessPool
from astor_rl.sandbox.remote import wire
from astor_rl.sandbox.remote.forms import WireError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_S: Final = 30.0
"""How long a request's body may take to arrive, seconds."""
_RETRY_AFTER_S: Final = 1


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: bytes
    retry_after_s: int | None = None


class _Refused(Exception):  # noqa: N818 - an answer, not a failure
    def __init__(self, status: int, line: str, retry_after_s: int | None = None) -> None:
        super().__init__(line)
        self.reply = _Reply(status, wire.pack_error(line), retry_after_s)


class _Gone(Exception):  # noqa: N818 - an event
    """Nobody waits for the reply any more."""


class Service:
    """Runs jobs of authorised callers on a pool. Call it from one event loop only.

    Args:
        pool: where jobs run.
        token: what callers must show; empty lets everybody in.
        queue: jobs that may wait beside those that run.
    """

    def __init__(self, pool: ProcessPool, *, token: str, queue: int) -> None:
        self._pool = pool
        self._token = token.encode("ascii")
        self._queue = queue
        self._free = asyncio.Semaphore(pool.workers)
        self._held: set[asyncio.Task[Outcome]] = set()
        self._waiting: set[asyncio.Task[Outcome]] = set()
        self._running: set[asyncio.Future[Outcome]] = set()
        self._stopping = False
        self._applied, self._missing = probe.trial()

    def info(self) -> wire.ServerInfo:
        """What health requests are answered."""
        missing = dict(self._missing)
        return wire.ServerInfo(
            wire=wire.VERSION,
            astor=__version__,
            python=".".join(platform.python_version_tuple()[:2]),
            workers=self._pool.workers,
            queue=self._queue,
            running=len(self._running),
            queued=len(self._waiting),
            stopping=self._stopping,
            tier=protections.tier(self._applied, missing),
            applied=self._applied,
            missing=missing,
        )

    def stop(self, grace_s: float) -> None:
        """Take no more jobs and send back those that wait; those that run may do so for a while.

        Args:
            grace_s: seconds after which callers are sent away whose jobs still run.
        """
        self._stopping = True
        self._send_away(self._waiting)
        asyncio.get_running_loop().call_later(grace_s, self._send_away, self._held)

    @staticmethod
    def _send_away(tasks: Iterable[asyncio.Task[Outcome]]) -> None:
        for task in tasks:
            task.cancel()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            reply = await self._answer(scope, receive)
        except _Refused as refusal:
            reply = refusal.reply
        except _Gone:
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(reply.body)).encode("ascii")),
        ]
        if reply.retry_after_s is not None:
            headers.append((b"retry-after", str(reply.retry_after_s).encode("ascii")))
        if reply.status in (400, 401, 408, 413):  # what is left of the request shall not be read
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive) -> _Reply:
        headers = dict(scope["headers"])
        shown = headers.get(b"authorization", b"")
        if self._token and not hmac.compare_digest(shown, b"Bearer " + self._token):
            raise _Refused(401, "the token is missing or wrong")
        method = {wire.JOBS_PATH: "POST", wire.HEALTH_PATH: "GET"}.get(scope["path"])
        if method is None:
            raise _Refused(404, f"nothing is here; this server speaks version {wire.VERSION}")
        if scope["method"] != method:
            raise _Refused(405, f"{scope['path']} takes {method}")
        if method == "GET":
            return _Reply(200, wire.pack_info(self.info()))
        body = await _read(headers, receive)
        try:
            job = wire.unpack_job(body)
        except WireError as error:
            raise _Refused(400, str(error)) from None
        del body
        return _Reply(200, wire.pack_outcome(await self._run(job, receive)))

    async def _run(self, job: Job, receive: Receive) -> Outcome:
        if self._stopping or len(self._waiting) + len(self._running) >= (
            self._pool.workers + self._queue
        ):
            raise self._busy()
        work = asyncio.create_task(self._when_free(job))
        self._held.add(work)
        self._waiting.add(work)
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise _Gone
            if work.cancelled():
                raise self._busy()
            return work.result()
        except AstorError as error:
            raise _Refused(500, str(error)) from None
        finally:
            self._held.discard(work)
            self._waiting.discard(work)
            work.cancel()
            gone.cancel()

    async def _when_free(self, job: Job) -> Outcome:
        try:
            async with asyncio.timeout(wire.QUEUE_S):
                await self._free.acquire()
        except TimeoutError:
            raise self._busy() from None
        this = asyncio.current_task()
        if this is not None:
            self._waiting.discard(this)
        running = asyncio.ensure_future(self._pool.submit(job))
        self._running.add(running)
        running.add_done_callback(self._finished)
        # A caller that leaves doesn't end a job, so it must not free the worker either.
        return await asyncio.shield(running)

    def _finished(self, running: asyncio.Future[Outcome]) -> None:
        self._running.discard(running)
        self._free.release()
        if not running.cancelled():
            running.exception()  # marks it as seen: the caller may have left

    def _busy(self) -> _Refused:
        line = "the server is stopping" if self._stopping else "the server is full"
        return _Refused(503, line, _RETRY_AFTER_S)


async def _read(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    length = headers.get(b"content-length", b"0")
    too_large = _Refused(413, f"a job has at most {wire.MAX_REQUEST} bytes")
    if not length.isdigit() or len(length) > 12 or int(length) > wire.MAX_REQUEST:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Gone
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > wire.MAX_REQUEST:
                    raise too_large
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise _Refused(408, f"the job did not arrive within {BODY_S:.0f} s") from None


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

"""One sandbox server as a trainer sees it: its health, and one job at a time to its reply."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import httpx2

from astor_rl import __version__
from astor_rl.errors import SandboxError
from astor_rl.sandbox import protections
from astor_rl.sandbox.api import Job, Outcome
from astor_rl.sandbox.remote import wire
from astor_rl.sandbox.remote.address import check_exposure, check_url
from astor_rl.sandbox.remote.forms import WireError

_CONNECT_S: Final = 5.0
_CLOSE_S: Final = 5.0
_HEALTH_S: Final = 15.0
_IDLE_S: Final = 30.0
"""Unused connections are closed earlier than the server would, so that none is found closed."""
_HEALTH_LIMIT: Final = 1 << 20
_RETRY_AFTER_S: Final = 1.0
_LONGEST_RETRY_S: Final = 30.0

# A machine that lost its power says nothing: the kernel asks after 15 s, and gives up 15 s later.
_KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)


class Unreached(Exception):  # noqa: N818 - an event
    """No reply. `sent`: the job may have begun there."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Busy(Exception):  # noqa: N818
    """The server has no place; ask again after `after_s` seconds."""

    def __init__(self, after_s: float) -> None:
        super().__init__(f"full for {after_s:g} s")
        self.after_s = after_s


class Failed(Exception):  # noqa: N818
    """The server's sandbox doesn't work: its line."""


@dataclass(frozen=True, slots=True)
class Access:
    """What every server of a pool is asked with.

    Attributes:
        token: shown to the server; empty shows none.
        ca_file: PEM file of the authorities to trust; None: the system's.
        insecure: the token may go to other machines unencrypted.
        allow_missing: protections a server may lack.
    """

    token: str = field(default="", repr=False)
    ca_file: str | None = None
    insecure: bool = False
    allow_missing: Sequence[str] = ()

    def trust(self) -> ssl.SSLContext:
        """How servers' certificates are checked.

        Raises:
            SandboxError: `ca_file` can't be used.
        """
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ValueError) as error:
            raise SandboxError(f"CA file {self.ca_file!r} can't be used: {error}") from None


@dataclass(frozen=True, slots=True)
class Request:
    """A job ready to send: body, seconds to wait for the reply, bytes that it may have."""

    body: bytes
    deadline_s: float
    reply_limit: int

    @classmethod
    def of(cls, job: Job) -> Request:
        """Raises `WireError`: it can't be sent."""
        return cls(wire.pack_job(job), wire.deadline_s(job), wire.reply_limit(job))


class Link:
    """Speaks with one server. Use it from one event loop only.

    Raises:
        SandboxError: the URL or the access to it is wrong.
    """

    def __init__(self, url: str, access: Access) -> None:
        self.url = check_url(url)
        check_exposure(self.url, insecure=access.insecure)
        self._access = access
        trust = access.trust() if urlsplit(self.url).scheme == "https" else False
        headers = {"user-agent": f"astor-rl/{__version__}", "accept-encoding": "identity"}
        if access.token:
            headers["authorization"] = f"Bearer {access.token}"
        limits = httpx2.Limits(max_connections=None, keepalive_expiry=_IDLE_S)
        self._client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(None, connect=_CONNECT_S),
            # Verifiers stand beside the trainer: the proxy to the world isn't meant for them.
            trust_env=False,
            transport=httpx2.AsyncHTTPTransport(
                verify=trust, trust_env=False, limits=limits, socket_options=_KEEP_ALIVE
            ),
        )

    async def check(self) -> wire.ServerInfo:
        """Ask for the server's health and see whether it suits.

        Raises:
            Unreached: it doesn't answer, or is stopping.
            SandboxError: wrong token, other version, or a protection is missing.
        """
        status, body, _ = await self._exchange("GET", wire.HEALTH_PATH, None, _HEALTH_S,
                                               _HEALTH_LIMIT)  # fmt: skip
        if status in (500, 502, 503, 504):
            raise Unreached(wire.unpack_error(body), sent=False)
        if status != 200:
            raise self._refusal(status, body)
        try:
            info = wire.unpack_info(body)
        except WireError as error:
            raise SandboxError(f"sandbox server {self.url}: {error}") from None
        if info.stopping:
            raise Unreached("it is stopping", sent=False)
        self._suits(info)
        return info

    def _suits(self, info: wire.ServerInfo) -> None:
        here = (__version__, ".".join(platform.python_version_tuple()[:2]))
        if (info.astor, info.python) != here:
            raise SandboxError(
                f"sandbox server {self.url} runs astor-rl {info.astor} on Python {info.python}, "
                f"this is astor-rl {here[0]} on Python {here[1]}: verdicts could differ; use the "
                "same on both"
            )
        try:
            protections.check(info.applied, info.missing, self._access.allow_missing)
        except SandboxError as error:
            raise SandboxError(f"sandbox server {self.url}: {error}") from None

    async def run(self, request: Request) -> Outcome:
        """Have a job run.

        Raises:
            Unreached, Busy: try it elsewhere.
            Failed: the server's sandbox doesn't work.
            SandboxError: the server refuses this caller, or this job.
        """
        status, body, retry_after = await self._exchange(
            "POST", wire.JOBS_PATH, request.body, request.deadline_s, request.reply_limit
        )
        if status == 200:
            try:
                return wire.unpack_outcome(body)
            except WireError as error:
                raise Unreached(f"its reply is wrong: {error}", sent=True) from None
        if status == 503:
            raise Busy(retry_after)
        if status >= 500:
            raise Failed(wire.unpack_error(body))
        raise self._refusal(status, body)

    def _refusal(self, status: int, body: bytes) -> SandboxError:
        return SandboxError(
            f"sandbox server {self.url} answers {status}: {wire.unpack_error(body)}"
        )

    async def _exchange(
        self, method: str, path: str, content: bytes | None, seconds: float, limit: int
    ) -> tuple[int, bytes, float]:
        """One request: status, body, and after how many seconds to ask again."""
        try:
            async with (
                asyncio.timeout(seconds),
                self._client.stream(method, self.url + path, content=content) as reply,
            ):
                parts, size = [], 0
                async for part in reply.aiter_raw():
                    parts.append(part)
                    size += len(part)
                    if size > limit:
                        raise Unreached(f"its reply is over {limit} bytes", sent=True)
                return reply.status_code, b"".join(parts), _seconds(reply.headers)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Unreached(f"can't connect: {_reason(error)}", sent=False) from None
        except httpx2.TransportError as error:
            raise Unreached(f"the connection broke: {_reason(error)}", sent=True) from None
        except TimeoutError:
            raise Unreached(f"no reply within {seconds:.0f} s", sent=True) from None

    async def close(self) -> None:
        """Close its connections; one whose other end is silent is not waited for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._client.aclose()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _seconds(headers: httpx2.Headers) -> float:
    text = headers.get("retry-after", "")
    seconds = float(text) if text.isdigit() and len(text) < 6 else _RETRY_AFTER_S
    return min(max(seconds, 0.1), _LONGEST_RETRY_S)

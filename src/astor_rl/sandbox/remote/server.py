"""`astor sandbox serve`: listens, and ends in good order."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import uvicorn

from astor_rl.errors import SandboxError
from astor_rl.sandbox.pool import ProcessPool
from astor_rl.sandbox.remote.address import is_loopback
from astor_rl.sandbox.remote.connection import PatientProtocol
from astor_rl.sandbox.remote.service import Service
from astor_rl.sandbox.remote.token import VARIABLE, read_token

IDLE_S: Final = 60
"""How long an unused connection is kept, seconds; clients let go of theirs earlier."""
_CONNECTIONS: Final = 1024
_HEADERS: Final = 16 << 10
_FAREWELL_S: Final = 5
"""For sending the last callers away once the grace is over, seconds."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How a server listens and what it runs.

    Attributes:
        host, port: where it listens; port 0 takes a free one.
        workers: jobs at a time; None: one a usable CPU.
        queue: jobs that may wait besides; None: four a worker.
        token_file: the secret callers must show; None: the environment's.
        tls_cert, tls_key: PEM files.
        insecure: allow other machines in without TLS.
        allow_missing: protections that may be missing.
        grace_s: how long running jobs may go on after SIGTERM, seconds.
    """

    host: str = "127.0.0.1"
    port: int = 8417
    workers: int | None = None
    queue: int | None = None
    token_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    insecure: bool = False
    allow_missing: Sequence[str] = ()
    grace_s: int = 30


def serve(options: ServeOptions, *, note: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; then running jobs get `grace_s`, and all ends.

    Args:
        options: see `ServeOptions`.
        note: takes the line that says where it listens.

    Raises:
        SandboxError: it would be open to others without need, can't listen, or the sandbox can't
            start.
    """
    token = read_token(options.token_file)
    _check_exposure(options, token)
    _check_certificate(options)
    with ProcessPool(options.workers, allow_missing=options.allow_missing) as pool:
        queue = 4 * pool.workers if options.queue is None else options.queue
        service = Service(pool, token=token, queue=queue)
        with _listen(options.host, options.port) as listening:
            server = _Server(_settings(service, options), service, options.grace_s)
            host, port = listening.getsockname()[:2]
            scheme = "https" if options.tls_cert else "http"
            name = f"[{host}]" if ":" in host else host
            note(
                f"serving on {scheme}://{name}:{port}: {pool.workers} workers, "
                f"protections {service.info().tier}"
            )
            # uvicorn sends itself the signal again at the end: by then all that is left is to go.
            with contextlib.suppress(KeyboardInterrupt):
                server.run(sockets=[listening])


def _check_exposure(options: ServeOptions, token: str) -> None:
    if is_loopback(options.host):
        return
    if not token:
        raise SandboxError(
            f"host {options.host!r} is open to other machines and there is no token; pass "
            f"--token-file or set {VARIABLE}"
        )
    if not options.tls_cert and not options.insecure:
        raise SandboxError(
            f"host {options.host!r} is open to other machines and there is no TLS: the token "
            "could be read on the way; pass --tls-cert and --tls-key, or --insecure"
        )


def _check_certificate(options: ServeOptions) -> None:
    if bool(options.tls_cert) != bool(options.tls_key):
        raise SandboxError("TLS needs both --tls-cert and --tls-key")
    if not options.tls_cert:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            options.tls_cert, options.tls_key
        )
    except (OSError, ValueError) as error:
        raise SandboxError(
            f"TLS certificate {options.tls_cert!r} with key {options.tls_key!r} can't be used: "
            f"{error}"
        ) from None


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host.strip("[]"), port), family=family, backlog=256)
    except OSError as error:
        raise SandboxError(f"can't listen on {host}:{port}: {error}") from None
    # Connections inherit it. asyncio sets it only on sockets that name their protocol, which these
    # don't; without it each reply takes 40 ms longer.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _settings(service: Service, options: ServeOptions) -> uvicorn.Config:
    return uvicorn.Config(
        service,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        loop="asyncio",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=options.grace_s + _FAREWELL_S,
        h11_max_incomplete_event_size=_HEADERS,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
    )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service, grace_s: int) -> None:
        super().__init__(config)
        self._service = service
        self._grace_s = grace_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.stop(self._grace_s)
        await super().shutdown(sockets)

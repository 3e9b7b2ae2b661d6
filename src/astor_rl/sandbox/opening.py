"""The one place where a command's pool is made: of this machine, or of the servers it names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from astor_rl.errors import DependencyError
from astor_rl.sandbox.api import SandboxPool
from astor_rl.sandbox.pool import ProcessPool
from astor_rl.sandbox.remote.token import read_token
from astor_rl.sandbox.remote.wire import ServerInfo


class SandboxSettings(Protocol):
    """Where untrusted code runs: the keys of a run's `[sandbox]`, as `open_pool` reads them."""

    @property
    def workers(self) -> int:
        """Local processes; 0: one a usable CPU."""
        ...

    @property
    def allow_missing(self) -> Sequence[str]:
        """Protections that may be missing."""
        ...

    @property
    def urls(self) -> Sequence[str]:
        """Sandbox servers; none: this machine."""
        ...

    @property
    def token_file(self) -> str | None:
        """File with the servers' secret."""
        ...

    @property
    def ca_file(self) -> str | None:
        """File with the authorities of their certificates."""
        ...

    @property
    def insecure(self) -> bool:
        """Whether other machines may be spoken with unencrypted."""
        ...


def open_pool(settings: SandboxSettings) -> SandboxPool:
    """A pool as the settings say; use it as a context manager.

    Raises:
        SandboxError: a protection is missing, or the servers can't be used.
        DependencyError: servers are named and the extra `remote` isn't installed.
    """
    if not settings.urls:
        return ProcessPool(settings.workers or None, allow_missing=settings.allow_missing)
    with _extra():
        from astor_rl.sandbox.remote.client import RemotePool

    return RemotePool(
        settings.urls,
        token=read_token(settings.token_file),
        ca_file=settings.ca_file,
        insecure=settings.insecure,
        allow_missing=settings.allow_missing,
    )


def survey_servers(settings: SandboxSettings) -> dict[str, ServerInfo | str]:
    """What each server of the settings says of itself, or why it can't be used.

    Raises:
        SandboxError: the token can't be read.
        DependencyError: the extra `remote` isn't installed.
    """
    with _extra():
        from astor_rl.sandbox.remote.link import Access
        from astor_rl.sandbox.remote.survey import survey
    access = Access(
        read_token(settings.token_file),
        settings.ca_file,
        settings.insecure,
        settings.allow_missing,
    )
    return survey(settings.urls, access)


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"sandbox.url needs package {error.name!r}; pip install 'astor-rl[remote]'"
        ) from None

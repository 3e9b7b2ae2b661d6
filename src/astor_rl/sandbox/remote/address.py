"""Addresses of sandbox servers: which are of this machine, and which may be sent a token."""

from __future__ import annotations

import contextlib
import ipaddress
from urllib.parse import urlsplit

from astor_rl.errors import SandboxError


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost"


def check_url(url: str) -> str:
    """A server's URL without the slash at its end.

    Raises:
        SandboxError: not `http(s)://host[:port]` and nothing else.
    """
    if "@" in url:  # not shown: it would be in run folders and logs
        raise SandboxError(
            "a sandbox url holds a user or password; it must be https://host:port, with the "
            "secret in token_file"
        )
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        right = False
    if not right or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise SandboxError(f"sandbox url {url!r} must be https://host:port (or http://)")
    return url.removesuffix("/")


def check_exposure(url: str, *, insecure: bool) -> None:
    """Refuse to speak with another machine unencrypted.

    Raises:
        SandboxError: that would happen.
    """
    parts = urlsplit(url)
    if parts.scheme == "http" and not insecure and not is_loopback(parts.hostname or ""):
        raise SandboxError(
            f"sandbox url {url!r} is another machine's and not encrypted: token and rewards could "
            "be read and changed on the way; use https, or set sandbox.insecure = true"
        )

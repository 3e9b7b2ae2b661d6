"""Asks servers once how they are, for people."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from astor_rl.errors import SandboxError
from astor_rl.sandbox.remote.link import Access, Link, Unreached
from astor_rl.sandbox.remote.wire import ServerInfo


def survey(urls: Sequence[str], access: Access) -> dict[str, ServerInfo | str]:
    """What each server says of itself, or why it can't be used."""
    return asyncio.run(_survey(urls, access))


async def _survey(urls: Sequence[str], access: Access) -> dict[str, ServerInfo | str]:
    found = await asyncio.gather(*(_ask(url, access) for url in urls))
    return dict(zip(urls, found, strict=True))


async def _ask(url: str, access: Access) -> ServerInfo | str:
    try:
        link = Link(url, access)
    except SandboxError as error:
        return str(error)
    try:
        return await link.check()
    except (SandboxError, Unreached) as error:
        return str(error)
    finally:
        await link.close()

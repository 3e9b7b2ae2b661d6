"""uvicorn's HTTP connection, with the one timeout that it lacks."""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S: Final = 20.0
"""How long a new connection may take to its first whole request header, seconds."""


class PatientProtocol(H11Protocol):
    """Closes a connection that never asks for anything: it would hold a place for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self.loop.call_later(HEADERS_S, self._close_unused)

    def _close_unused(self) -> None:
        if self.cycle is None:  # as it starts; uvicorn's annotation says never
            self.transport.close()  # type: ignore[unreachable]

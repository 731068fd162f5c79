"""Connections of the study's server: so many an address, and none that never gets its headers said.

uvicorn counts connections but waits for ever for a request's headers: a thousand of them that say nothing would close
the study to everybody.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 200  # an address; a browser opens six, the server takes 1000 in all
HEADER_SECONDS = 20.0


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with bounds. A proxy is one address for all: `per_address` is then None."""

    per_address: int | None = MAX_CONNECTIONS
    header_seconds = HEADER_SECONDS
    open_from: ClassVar[Counter[str]] = Counter()

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take a connection, or close it where its address has its number of them."""
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._address = str((transport.get_extra_info("peername") or [""])[0])
        self.open_from[self._address] += 1
        if self.per_address is not None and self.open_from[self._address] > self.per_address:
            transport.close()
            return
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Take bytes; the headers must be whole within `header_seconds` of the first of them."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._start_timer()
        else:
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._stop_timer()
        self.open_from[self._address] -= 1
        if not self.open_from[self._address]:
            del self.open_from[self._address]
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.header_seconds, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class BehindProxy(BoundedProtocol):
    """The same for a study that a proxy hands on."""

    per_address = None

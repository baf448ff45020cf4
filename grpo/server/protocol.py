"""HTTP/1.1 as uvicorn speaks it, with a limit on the time a request's head may take.

uvicorn has limits on the time between requests only: a client that sends a head a byte at a time, or nothing at all,
would hold its connection for ever, and there is room for so many.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""From the connection, or the first byte of a later request, to the end of its head."""


class PatientProtocol(H11Protocol):
    """Closes a connection whose request does not come to its point."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._arrived()
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def _arrived(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

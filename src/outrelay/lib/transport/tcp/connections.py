"""The live connections of one listener or dialler: ended with their peers' certificates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from outrelay.lib.errors import ErrorCode
from outrelay.lib.transport.tcp.connection import TcpConnection

TICK = 1.0
"""Seconds between looks at the calendar."""

FAREWELL = 2.0
"""Seconds that connections have to say goodbye when all of them are closed."""


class Connections:
    """A set of connections, each in it from its handshake until its socket is closed."""

    def __init__(self) -> None:
        self._live: set[TcpConnection] = set()
        self._loop = asyncio.get_running_loop()
        self._ticker: asyncio.TimerHandle | None = None
        self._none = asyncio.Event()
        self._none.set()

    def __iter__(self) -> Iterator[TcpConnection]:
        return iter(list(self._live))

    def add(self, connection: TcpConnection) -> None:
        """Look after ``connection``."""
        self._live.add(connection)
        self._none.clear()
        if self._ticker is None:
            self._ticker = self._loop.call_later(TICK, self._tick)

    def discard(self, connection: TcpConnection) -> None:
        """Forget ``connection``: its socket is closed."""
        self._live.discard(connection)
        if not self._live:
            self._none.set()

    async def close(self) -> None:
        """Close them all; return when their sockets are closed."""
        for connection in self:
            connection.close()
        try:
            async with asyncio.timeout(FAREWELL):
                await self._none.wait()
        except TimeoutError:
            pass
        finally:
            for connection in self:
                connection.abort()
            if self._ticker is not None:
                self._ticker.cancel()

    def _tick(self) -> None:
        now = time.time()
        for connection in self:
            if now >= connection.peer_expires:
                connection.close(ErrorCode.DENIED, "the peer's certificate has expired")
        self._ticker = self._loop.call_later(TICK, self._tick) if self._live else None

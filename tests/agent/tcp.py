"""Applications and backends as tests play them: plain TCP sockets on loopback."""

from __future__ import annotations

import asyncio
import socket
from types import TracebackType
from typing import Self

from outrelay.agent import sockets
from outrelay.agent.sockets import abort, close, listen, prepare

HOST = "127.0.0.1"


class Tcp:
    """One end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        close(self.sock)

    async def send(self, data: bytes) -> None:
        """Write all of ``data``."""
        await self._loop.sock_sendall(self.sock, data)

    async def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        data = bytearray()
        while len(data) < size:
            part = await self._loop.sock_recv(self.sock, size - len(data))
            assert part, f"the connection ended after {len(data)} bytes"
            data += part
        return bytes(data)

    async def read_all(self) -> bytes:
        """Everything up to the end of file."""
        data = bytearray()
        while part := await self._loop.sock_recv(self.sock, 1 << 18):
            data += part
        return bytes(data)

    async def until_reset(self) -> bytes:
        """Everything up to an RST; an end of file instead fails the test."""
        data = bytearray()
        try:
            while part := await self._loop.sock_recv(self.sock, 1 << 18):
                data += part
        except ConnectionResetError:
            return bytes(data)
        raise AssertionError(f"a clean end after {bytes(data)!r}, not a reset")

    def end(self) -> None:
        """Write no more."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave with an RST."""
        abort(self.sock)


async def connect(port: int) -> Tcp:
    """An application's connection to the agent."""
    return Tcp(await sockets.connect((HOST, port)))


class Backend:
    """A service that accepts connections."""

    def __init__(self) -> None:
        self.sock = listen((HOST, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.sock.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self.sock.getsockname()[1]
        return port

    async def accept(self) -> Tcp:
        """The next connection."""
        sock, _ = await asyncio.get_running_loop().sock_accept(self.sock)
        prepare(sock)
        return Tcp(sock)

"""A TCP server of a few lines, gone without a trace after the ``with``.

async def echo(sock):
    while data := await loop.sock_recv(sock, 4096):
        await loop.sock_sendall(sock, data)

async with serving(echo) as address:
    ...
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Address = tuple[str, int]


@asynccontextmanager
async def serving(handle: Callable[[socket.socket], Awaitable[None]]) -> AsyncIterator[Address]:
    """Where ``handle`` is called for every connection; the socket is closed behind it.

    Args:
        handle: Serves a non-blocking socket; an OSError of the socket is its end.
    """
    loop = asyncio.get_running_loop()

    async def serve(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            await handle(sock)

    async def accept(listening: socket.socket) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                sock, _ = await loop.sock_accept(listening)
                sock.setblocking(False)
                group.create_task(serve(sock))

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        listening.setblocking(False)
        host, port = listening.getsockname()
        async with asyncio.TaskGroup() as group:
            accepting = group.create_task(accept(listening))
            try:
                yield host, port
            finally:
                accepting.cancel()


async def splice(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes and ends on, both ways, until both have ended."""
    loop = asyncio.get_running_loop()

    async def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := await loop.sock_recv(source, 1 << 16):
                await loop.sock_sendall(target, data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    async with asyncio.TaskGroup() as group:
        group.create_task(copy(one, other))
        group.create_task(copy(other, one))

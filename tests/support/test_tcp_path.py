"""The TCP path passes bytes on, or does not, as it is told."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.ports import unused_port
from tests.support.tcp_path import TcpPath


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[TcpPath, asyncio.Event]]:
    """A path to a server that sends everything back; set when that has heard something."""
    heard = asyncio.Event()

    async def echo(reader: StreamReader, writer: StreamWriter) -> None:
        while data := await reader.read(1000):
            heard.set()
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, TcpPath(server.sockets[0].getsockname()[:2]) as path:
        yield path, heard


async def test_what_is_muted_arrives_later() -> None:
    async with echoing() as (path, heard), asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*path.address)
        path.mute(down=True)
        writer.write(b"hello")
        await heard.wait()
        path.mute()
        assert await reader.readexactly(5) == b"hello"
        assert path.passed == 10
        writer.close()


async def test_a_path_that_is_severed_takes_others() -> None:
    async with echoing() as (path, _), asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*path.address)
        writer.write(b"1")
        assert await reader.readexactly(1) == b"1"
        path.sever()
        assert await reader.read() == b""
        writer.close()
        reader, writer = await asyncio.open_connection(*path.address)
        writer.write(b"2")
        assert await reader.readexactly(1) == b"2"
        writer.close()


async def test_a_server_that_is_gone_is_told_at_once() -> None:
    nobody = ("127.0.0.1", unused_port())
    async with TcpPath(nobody) as path, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*path.address)
        assert await reader.read() == b""
        writer.close()

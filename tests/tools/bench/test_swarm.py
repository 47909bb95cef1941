"""The load of many connections counts from when each was due, and compares every byte."""

from __future__ import annotations

import asyncio
import json
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from outrelay.lib.values import Address
from outrelay.tools.bench import swarm

Handler = Callable[[StreamReader, StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Address]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()


async def echo(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def damage(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(bytes(len(data)))
    writer.close()


async def hang_up(_reader: StreamReader, writer: StreamWriter) -> None:
    writer.close()


async def test_opens_are_counted_from_when_they_were_due() -> None:
    """The first answer comes only when all ten have asked: the earlier wait longer."""
    gate = asyncio.Barrier(10)

    async def together(reader: StreamReader, writer: StreamWriter) -> None:
        data = await reader.readexactly(1)
        await gate.wait()
        writer.write(data)
        writer.close()

    async with serving(together) as address:
        answer = await swarm.opens(address, 200, 10)
    delays = answer["values"]
    assert isinstance(delays, list)
    assert len(delays) == 10
    assert max(delays) - min(delays) >= 8 / 200  # they were due 5 ms apart
    assert answer["errors"] == []


async def test_opens_that_fail_are_told() -> None:
    async with serving(hang_up) as address:
        answer = await swarm.opens(address, 100, 3)
    assert answer["values"] == []
    assert len(str(answer["errors"]).split("Error")) > 3


async def test_streams_move_at_once() -> None:
    async with serving(echo) as address:
        answer = await swarm.streams(address, 5, 0.1)
    moved = answer["values"]
    assert isinstance(moved, list)
    assert len(moved) == 5
    assert all(each and each % swarm.CHUNK == 0 for each in moved)
    assert answer["errors"] == []


@pytest.mark.parametrize(("handler", "word"), [(damage, "other bytes"), (hang_up, "Error")])
async def test_a_stream_that_is_damaged_fails_all(handler: Handler, word: str) -> None:
    async with serving(handler) as address:
        answer = await swarm.streams(address, 3, 0.1)
    assert answer["values"] == []
    assert word in str(answer["errors"])


@pytest.mark.parametrize("arguments", [("opens", "50", "3"), ("streams", "2", "1")])
def test_as_a_program(capsys: pytest.CaptureFixture[str], arguments: tuple[str, str, str]) -> None:
    port: list[int] = []
    started, done = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        async with serving(echo) as address:
            port.append(address[1])
            loops.append(asyncio.get_running_loop())
            started.set()
            await done.wait()

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    started.wait()
    try:
        work, *numbers = arguments
        swarm.main([work, str(port[0]), *numbers])
    finally:
        loops[0].call_soon_threadsafe(done.set)
        thread.join()
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["values"]) == (3 if work == "opens" else 2)
    assert answer["cpu_seconds"] > 0

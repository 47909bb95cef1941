"""What applications do through OutRelay arrives at the backend as it was, and back."""

from __future__ import annotations

import asyncio
import urllib.request
from asyncio import StreamReader, StreamWriter

import pytest

from outrelay.lib.values import address_text
from tests.integration.carriers import NATIVE
from tests.integration.peers import (
    MIB,
    Payload,
    abort,
    answer_to,
    calling,
    digest_of,
    echo,
)
from tests.integration.world import APP, WEB, World

pytestmark = pytest.mark.asyncio(loop_scope="session")
CARRIERS = ("quic", "tcp", "quic-tcp", "tcp-quic", NATIVE)

much = pytest.mark.parametrize("mib", [8, pytest.param(64, marks=pytest.mark.soak)])


async def test_http(world: World) -> None:
    def get() -> bytes:
        url = f"http://{address_text(world.at[WEB])}/page"
        with urllib.request.urlopen(url, timeout=10) as response:
            return bytes(response.read())

    assert await asyncio.to_thread(get) == b"you asked for /page"


@much
async def test_much_up(world: World, mib: int) -> None:
    up = Payload(1, mib * MIB)

    async def backend(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write((await digest_of(reader)).encode())

    async with world.backend.serving(backend), calling(world.at[APP]) as (reader, writer):
        await up.send(writer)
        assert (await reader.read()).decode() == up.digest


@much
async def test_much_down(world: World, mib: int) -> None:
    down = Payload(2, mib * MIB)

    async def backend(_reader: StreamReader, writer: StreamWriter) -> None:
        await down.send(writer)

    async with world.backend.serving(backend), calling(world.at[APP]) as (reader, _):
        assert await digest_of(reader) == down.digest


@much
async def test_much_both_ways_at_once(world: World, mib: int) -> None:
    up, down = Payload(1, mib * MIB), Payload(2, mib * MIB)
    arrived = []

    async def backend(reader: StreamReader, writer: StreamWriter) -> None:
        digest, _ = await asyncio.gather(digest_of(reader), down.send(writer))
        arrived.append(digest)

    async with world.backend.serving(backend), calling(world.at[APP]) as (reader, writer):
        digest, _ = await asyncio.gather(digest_of(reader), up.send(writer))
        assert digest == down.digest
    assert arrived == [up.digest]


async def test_the_application_ends_first(world: World) -> None:
    async def backend(reader: StreamReader, writer: StreamWriter) -> None:
        assert await reader.read() == b"the question"
        writer.write(b"the answer, after the end of the question")

    async with world.backend.serving(backend):
        assert await answer_to(world.at[APP], b"the question") == (
            b"the answer, after the end of the question"
        )


async def test_the_backend_ends_first(world: World) -> None:
    arrived = []

    async def backend(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(b"that is all from me")
        writer.write_eof()
        arrived.append(await reader.read())

    async with world.backend.serving(backend), calling(world.at[APP]) as (reader, writer):
        assert await reader.read() == b"that is all from me"
        writer.write(b"but not from me")
        writer.write_eof()
    assert arrived == [b"but not from me"]


async def test_100_streams_at_once(world: World) -> None:
    together = asyncio.Barrier(100)

    async def backend(reader: StreamReader, writer: StreamWriter) -> None:
        await together.wait()
        await echo(reader, writer)

    async with world.backend.serving(backend), asyncio.timeout(30):
        requests = [f"request {number}".encode() * 1000 for number in range(100)]
        answers = await asyncio.gather(*(answer_to(world.at[APP], request) for request in requests))
    assert answers == requests


async def test_an_application_that_aborts_does_not_look_finished(world: World) -> None:
    async def backend(reader: StreamReader, _writer: StreamWriter) -> None:
        assert await reader.readexactly(5) == b"begin"
        started.set()
        with pytest.raises(ConnectionResetError):
            await reader.read()

    started = asyncio.Event()
    async with world.backend.serving(backend), calling(world.at[APP]) as (_, writer):
        writer.write(b"begin")
        await started.wait()
        await abort(writer)


async def test_a_backend_that_aborts_does_not_look_finished(world: World) -> None:
    async def backend(_reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(b"begin")
        await writer.drain()
        await started.wait()
        await abort(writer)

    started = asyncio.Event()
    async with world.backend.serving(backend), calling(world.at[APP]) as (reader, _):
        assert await reader.readexactly(5) == b"begin"
        started.set()
        with pytest.raises(ConnectionResetError):
            await reader.read()

"""What every carrier promises when there is much: bytes, streams, readers that stop."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from gc import get_referents
from types import FunctionType, ModuleType

import pytest

from outrelay.lib.tasks import beside
from outrelay.lib.transport.carrier import WRITE_BUFFER, Connection, Stream
from tests.lib.transport.carriers import Harness, Pair
from tests.lib.transport.streams import (
    MIB,
    closing,
    echo,
    exchange,
    payload,
    read_all,
    receive,
    round_trips,
    send,
)

pytestmark = pytest.mark.both_loops

STALLED_MAX = 2 * MIB
"""Bytes a carrier may take of a writer whose reader never reads."""


@asynccontextmanager
async def echoing(connection: Connection) -> AsyncIterator[None]:
    """Send back what comes on every stream that arrives."""

    async def serve() -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                stream = await connection.accept_stream()
                group.create_task(echo(stream), name=f"echo {stream.id}")

    async with beside(serve(), name="echo server"):
        yield


# --- bytes -----------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_64_mib_each_way(pair: Pair) -> None:
    await exchange(pair, 64 * MIB)


async def test_8_mib_each_way(pair: Pair) -> None:
    await exchange(pair, 8 * MIB)


async def test_many_streams_share_a_connection(pair: Pair) -> None:
    streams = [await pair.stream() for _ in range(16)]
    async with asyncio.TaskGroup() as group:
        sent = [
            group.create_task(send(near, seed, MIB + seed), name=f"send {seed}")
            for seed, (near, _) in enumerate(streams)
        ]
        got = [group.create_task(receive(far), name="receive") for _, far in streams]
    assert [task.result() for task in got] == [task.result() for task in sent]


# --- readers that stop -------------------------------------------------------------------


class Flood:
    """Writes without end to one stream and counts what the carrier has taken."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.accepted = 0
        self.sent = hashlib.sha256()

    async def run(self, size: int) -> None:
        for chunk in payload(4, size):
            for start in range(0, len(chunk), 1 << 16):
                part = chunk[start : start + (1 << 16)]
                self.sent.update(part)
                await self.stream.write(part)
                assert self.stream.unsent <= WRITE_BUFFER
                self.accepted += len(part)
        self.stream.finish()


async def until_still(floods: list[Flood], other: tuple[Stream, Stream]) -> None:
    """Return when no flood moves while the other stream does."""
    before = -1
    while before != (before := sum(flood.accepted for flood in floods)):
        await round_trips(other, count=50)


@pytest.mark.parametrize("writer", ["near", "far"])
async def test_a_reader_that_stops_makes_the_writer_wait(pair: Pair, writer: str) -> None:
    streams, other = await pair.stream(), await pair.stream()
    one, reader = streams if writer == "near" else streams[::-1]
    flood = Flood(one)
    async with asyncio.TaskGroup() as group:
        group.create_task(flood.run(8 * MIB), name="flood")
        await until_still([flood], other)
        assert 0 < flood.accepted <= STALLED_MAX
        assert flood.accepted - one.unsent <= reader.window + WRITE_BUFFER
        assert await receive(reader) == flood.sent.hexdigest()
    assert flood.accepted == 8 * MIB


async def test_stalled_streams_do_not_hold_up_the_others(pair: Pair) -> None:
    """Together they hold more than a connection's credit."""
    other = await pair.stream()
    streams = [await pair.stream() for _ in range(24)]
    floods = [Flood(near) for near, _ in streams]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(flood.run(8 * MIB), name="flood") for flood in floods]
        await until_still(floods, other)
        assert all(0 < flood.accepted <= STALLED_MAX for flood in floods)
        await round_trips(await pair.stream())
        for task in tasks:
            task.cancel()


# --- numbers of streams ------------------------------------------------------------------


async def call(connection: Connection, message: bytes) -> None:
    stream = await connection.open_stream()
    await stream.write(message)
    stream.finish()
    assert await read_all(stream) == message


async def test_1000_streams_at_once(pair: Pair) -> None:
    streams = [await pair.near.open_stream() for _ in range(1000)]
    async with echoing(pair.far):
        for stream in streams:
            await stream.write(b"%d first" % stream.id)
        for stream in streams:
            await stream.write(b", then second")
            stream.finish()
        for stream in streams:
            assert await read_all(stream) == b"%d first, then second" % stream.id


async def test_open_waits_for_credit(pair: Pair, carrier: Harness) -> None:
    streams = [await pair.near.open_stream() for _ in range(carrier.max_streams)]
    other = await pair.stream_back()
    async with asyncio.TaskGroup() as group:
        waiting = [
            group.create_task(call(pair.near, b"late %d" % number), name=f"late {number}")
            for number in range(20)
        ]
        await round_trips(other)
        assert not any(task.done() for task in waiting)
        async with echoing(pair.far):
            for stream in streams:
                stream.finish()
            for stream in streams:
                assert await read_all(stream) == b""
            await asyncio.wait(waiting)


async def test_open_without_credit_can_be_cancelled(pair: Pair, carrier: Harness) -> None:
    streams = [await pair.near.open_stream() for _ in range(carrier.max_streams)]
    async with asyncio.TaskGroup() as group, echoing(pair.far):
        gone, kept = (
            group.create_task(call(pair.near, b"late"), name=name) for name in ("gone", "kept")
        )
        await asyncio.sleep(0)
        gone.cancel()
        for stream in streams:
            stream.finish()
            assert await read_all(stream) == b""
        await kept


async def test_open_without_credit_learns_of_the_end(pair: Pair, carrier: Harness) -> None:
    for _ in range(carrier.max_streams):
        await pair.near.open_stream()
    async with asyncio.TaskGroup() as group:
        waiting = [
            group.create_task(closing(pair.near.open_stream()), name="open") for _ in range(3)
        ]
        await asyncio.sleep(0)
        pair.far.close()
    assert all(task.result().by_peer for task in waiting)


async def many_calls(connection: Connection, count: int) -> None:
    async def work() -> None:
        for number in range(count // 50):
            await call(connection, b"%d" % number)

    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(work(), name=f"calls {number}")


def footprint(*roots: object) -> int:
    """Bytes of everything that can be reached from some objects, classes and modules aside."""
    gc.collect()
    seen: dict[int, object] = {}
    queue: list[object] = list(roots)
    while queue:
        found = queue.pop()
        if id(found) in seen or isinstance(found, type | ModuleType):
            continue
        seen[id(found)] = found
        # A function's globals would lead everywhere; what it captured may be a stream.
        queue += (
            found.__closure__ or () if isinstance(found, FunctionType) else get_referents(found)
        )
    return sum(map(sys.getsizeof, seen.values()))


async def settle(pair: Pair) -> None:
    """Return when both ends know that all ends before have arrived."""
    for stream in await pair.stream_back():
        stream.finish()
        await stream.wait_finished()


@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.parametrize("streams", [4_000, pytest.param(20_000, marks=pytest.mark.soak)])
async def test_streams_leave_nothing_behind(pair: Pair, streams: int) -> None:
    async with echoing(pair.far):
        await many_calls(pair.near, 1_000)
        await settle(pair)
        before = footprint(pair.near, pair.far)
        await many_calls(pair.near, streams)
        await settle(pair)
        left = footprint(pair.near, pair.far) - before
    assert left < 10 * streams, "10 bytes a stream; the least trace of one takes 40"

"""Streams that outlive their legs: what applications at both ends get, whatever is lost."""

from __future__ import annotations

import asyncio
import random
from asyncio import TaskGroup
from collections.abc import Awaitable, Callable

import pytest

from outrelay.lib.errors import ErrorCode
from tests.agent.resume.pairing import CONSUMER, PROVIDER, Meeting, meeting
from tests.agent.tcp import Tcp
from tests.support.events import Events

pytestmark = pytest.mark.both_loops

MIB = 1 << 20


async def cut_consumer(meet: Meeting) -> None:
    await meet.relay.cut(CONSUMER)


async def cut_provider(meet: Meeting) -> None:
    await meet.relay.cut(PROVIDER)


async def cut_both(meet: Meeting) -> None:
    await meet.relay.cut(CONSUMER)
    await meet.relay.cut(PROVIDER)


async def drop_legs(meet: Meeting) -> None:
    for each in [*meet.relay.splices.values()]:
        each.abandon(ErrorCode.LEG_LOST, "dropped")


async def restart(meet: Meeting) -> None:
    await meet.relay.stop()
    meet.relay.listen()


FAULTS: list[Callable[[Meeting], Awaitable[None]]] = [
    cut_consumer, cut_provider, cut_both, drop_legs, restart,
]  # fmt: skip


async def transfer(source: Tcp, sink: Tcp, data: bytes) -> None:
    """Send ``data`` and its end; it must arrive as it is."""
    async with TaskGroup() as group:
        reading = group.create_task(sink.read_all())
        await source.send(data)
        source.end()
    assert reading.result() == data


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_stream_goes_on_after(
    seen: Events, fault: Callable[[Meeting], Awaitable[None]]
) -> None:
    async with meeting(seen) as meet:
        app, backend = await meet.stream()
        with app, backend:
            for words in (b"one", b"two", b"three"):
                await app.send(words)
                assert await backend.read(len(words)) == words
                await fault(meet)
                await backend.send(words)
                assert await app.read(len(words)) == words
            app.end()
            assert await backend.read_all() == b""
            await fault(meet)
            await backend.send(b"still here")
            backend.end()
            assert await app.read_all() == b"still here"
        await seen.wait("stream ended", count=2, reason="finished", bytes_up=11, bytes_down=21)
        assert meet.relay.resumed


@pytest.mark.parametrize("seed", range(6))
async def test_bytes_are_whole_whatever_is_lost_when(seen: Events, seed: int) -> None:
    chance = random.Random(seed)
    async with meeting(seen) as meet:
        ends = [await meet.stream() for _ in range(4)]
        await seen.wait("stream opened", count=8)
        async with TaskGroup() as group:
            for app, backend in ends:
                up, down = (chance.randbytes(chance.randrange(3 * MIB)) for _ in range(2))
                group.create_task(transfer(app, backend, up))
                group.create_task(transfer(backend, app, down))
            for _ in range(12):
                await asyncio.sleep(chance.random() * 0.02)
                await chance.choice(FAULTS)(meet)
        for app, backend in ends:
            app.sock.close()
            backend.sock.close()
        await seen.wait("stream ended", count=8, reason="finished")

"""Streams outlive the relay: what is lost, and what both applications get all the same.

Here is one test of each kind of outage, to be read; ``test_faults`` has hundreds at random.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import signal
from asyncio import StreamReader, StreamWriter, TaskGroup
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest

from outrelay.lib.identity.uri import Identity
from outrelay.lib.values import address_text
from tests.integration.attackers import Mallories
from tests.integration.carriers import ON_BOTH_ENGINES
from tests.integration.peers import calling, unused_port
from tests.integration.world import APP, World
from tests.support.processes import Program

pytestmark = pytest.mark.asyncio(loop_scope="session")
CARRIERS = ON_BOTH_ENGINES

MIB = 1 << 20
STREAMS = 6
PATIENCE = 60.0
"""Seconds for everything, on a busy machine."""


def content(seed: int, size: int) -> bytes:
    """What a stream carries one way."""
    return random.Random(seed).randbytes(size)


async def serve(reader: StreamReader, writer: StreamWriter) -> None:
    """Send what the first 16 bytes ask for, read all, answer with its hash and end."""
    seed, size = (
        int.from_bytes(await reader.readexactly(8)),
        int.from_bytes(await reader.readexactly(8)),
    )
    async with TaskGroup() as group:
        reading = group.create_task(_digest(reader))
        group.create_task(_send(writer, content(seed, size)))
    writer.write(reading.result())
    writer.write_eof()


async def _digest(reader: StreamReader) -> bytes:
    digest = hashlib.sha256()
    while data := await reader.read(65536):
        digest.update(data)
    return digest.digest()


async def _send(writer: StreamWriter, data: bytes) -> None:
    """In pieces, so that a transfer lasts."""
    for at in range(0, len(data), 65536):
        writer.write(data[at : at + 65536])
        await writer.drain()
        await asyncio.sleep(0.005)


async def transfer(world: World, seed: int, size: int, begun: asyncio.Event) -> None:
    """Both ways at once, with a half-close; each byte must be as it was sent."""
    up, down = content(seed, size), content(seed + 1, size)
    async with calling(world.at[APP]) as (reader, writer):
        writer.write((seed + 1).to_bytes(8) + size.to_bytes(8))

        async def upload() -> None:
            await _send(writer, up)
            writer.write_eof()

        async with TaskGroup() as group:
            group.create_task(upload())
            first = await reader.readexactly(65536)
            begun.set()
            rest = await reader.read(-1)
    assert hashlib.sha256(first + rest[:-32]).digest() == hashlib.sha256(down).digest()
    assert rest[-32:] == hashlib.sha256(up).digest()


async def transfers_during(
    world: World, fault: Callable[[], Awaitable[None]], size: int = 3 * MIB
) -> None:
    """Run transfers; ``fault`` happens in their middle."""
    begun = [asyncio.Event() for _ in range(STREAMS)]
    async with world.backend.serving(serve), asyncio.timeout(PATIENCE), TaskGroup() as group:
        for number, each in enumerate(begun):
            group.create_task(transfer(world, 10 * number, size, each))
        for each in begun:
            await each.wait()
        await fault()


async def test_a_relay_that_is_killed_and_comes_back_is_a_pause(own_world: World) -> None:
    async def fault() -> None:
        assert await own_world.relay.stop(signal.SIGKILL) < 0
        await own_world.restart_relay()

    await transfers_during(own_world, fault)
    await own_world.consumer.event("stream resumed")
    await own_world.provider.event("stream resumed")


@pytest.mark.soak
async def test_one_of_two_relays_may_be_killed(own_world: World) -> None:
    await add_second(own_world)

    async def fault() -> None:
        assert await own_world.relay.stop(signal.SIGKILL) < 0

    await transfers_during(own_world, fault)
    await own_world.consumer.event("stream resumed")


@pytest.mark.soak
async def test_a_relay_that_is_told_to_stop_resets_nobody(own_world: World) -> None:
    await add_second(own_world)

    async def fault() -> None:
        assert await own_world.relay.stop() == 0

    await transfers_during(own_world, fault)
    await own_world.consumer.event("stream resumed")


@pytest.mark.soak
async def test_a_relay_that_freezes_counts_as_gone(own_world: World) -> None:
    await add_second(own_world)

    async def fault() -> None:
        own_world.relay.send_signal(signal.SIGSTOP)
        await own_world.consumer.event("stream resumed", timeout=PATIENCE)
        own_world.relay.send_signal(signal.SIGCONT)

    await transfers_during(own_world, fault)


async def test_a_peer_that_cannot_resume_is_told_of_the_loss(own_world: World) -> None:
    """The relay dies for good; the far end is an agent that knows nothing of ``resume/2``."""
    async with Mallories(own_world).mallory("deregister/1") as consumer:
        async with own_world.backend.serving(_until_reset):
            stream = await consumer.open(APP, stream_id=7)
            await consumer.ready()
            await stream.write(b"?")
            await own_world.provider.event("stream opened")
            await own_world.relay.stop(signal.SIGKILL)
            ended = await own_world.provider.event("stream ended", timeout=PATIENCE)
        assert str(ended["reason"]).startswith("relay: ")


async def _until_reset(reader: StreamReader, _: StreamWriter) -> None:
    with pytest.raises(ConnectionResetError):
        await reader.read()


class Second(NamedTuple):
    """A second relay, and how it is started again."""

    relay: Program
    start: Callable[[], Awaitable[Program]]


async def add_second(world: World) -> Second:
    """A second relay, that the agents know of but have not met: the first was there before."""
    quic, tcp = address_text(unused_port()), address_text(unused_port())
    world.issue(Identity.parse("outrelay://local/relay/r2"), name="relay-2")
    await asyncio.gather(world.consumer.stop(), world.provider.stop())
    flags = {"quic": ("--relay", quic), "tcp": ("--relay-tcp", tcp)}
    await asyncio.gather(
        world.start_consumer(*flags[world.carriers.consumer]),
        world.start_provider(*flags[world.carriers.provider]),
    )

    async def start() -> Program:
        relay = await world.programs.start(
            "outrelay-relay",
            *("--listen", quic, "--listen-tcp", tcp),
            *("--controller", await world.controller_address()),
            *world.credentials("relay-2"),
        )
        await relay.event("ready")
        await relay.event("policy loaded")
        return relay

    return Second(await start(), start)

"""Relays, or providers, restarted one after the other under load: nobody notices.

What applications wait for meanwhile, ``make bench`` measures.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter, TaskGroup
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count

import pytest

from outrelay.lib.tasks import until
from outrelay.lib.values import address_text
from tests.integration.test_resume import add_second, serve, transfer
from tests.integration.world import APP, World
from tests.support.processes import Program

pytestmark = pytest.mark.asyncio(loop_scope="session")

AT_A_TIME = 4
SHORT = 256 * 1024
"""Bytes each way of a call, which takes some 30 ms; another one follows at once."""
LONG = 2 << 20
PATIENCE = 120.0
"""Seconds for everything, on a busy machine."""


@asynccontextmanager
async def load(world: World, *, long: int = 0) -> AsyncIterator[None]:
    """Calls one after the other, each of which must be whole; so many long ones besides."""
    over, done, numbers = asyncio.Event(), asyncio.Event(), count(1, 2)

    async def answer(reader: StreamReader, writer: StreamWriter) -> None:
        """What an open that was lost and tried again has left behind carries nothing, and is
        reset when its provider hears of that; of a call that has begun it would be a group."""
        with suppress(ConnectionResetError):
            await until(done, serve(reader, writer), name="backend")

    async def calls(size: int, begun: asyncio.Event) -> None:
        while not over.is_set():
            await transfer(world, next(numbers), size, begun)

    begun = [asyncio.Event() for _ in range(AT_A_TIME + long)]
    async with world.backend.serving(answer), asyncio.timeout(PATIENCE):
        async with TaskGroup() as group:
            for each, size in zip(begun, [*[SHORT] * AT_A_TIME, *[LONG] * long], strict=True):
                group.create_task(calls(size, each))
            for each in begun:
                await each.wait()
            yield
            over.set()
        done.set()


async def test_relays(own_world: World) -> None:
    world = own_world
    second = await add_second(world)
    async with load(world, long=2):
        assert await world.relay.stop() == 0
        await world.restart_relay()
        assert await second.relay.stop() == 0
        await second.start()
    for agent in (world.consumer, world.provider):
        await agent.event("stream resumed")
        assert len(agent.seen("the relay leaves")) >= 2
    assert not world.consumer.seen("open refused")


async def test_providers(own_world: World) -> None:
    """What a provider that stops carries ends as it should, and new calls go to the other one."""
    world = own_world

    async def start_other() -> Program:
        expose = f"--expose={APP}={address_text(world.backend.address)}"
        other, _ = await world.start_stranger(expose)
        return other

    other = await start_other()
    async with load(world):
        assert await world.provider.stop() == 0
        await world.start_provider()
        assert await other.stop() == 0
        other = await start_other()
    assert not world.consumer.seen("open refused")
    assert not world.consumer.seen("stream resumed")
    await other.stop()

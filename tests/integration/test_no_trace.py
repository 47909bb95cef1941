"""Of streams that have ended nothing is left, however they ended, in any of the processes.

Traffic goes twice: the first warms up what allocators and caches keep, the second must add
nothing. A leak of 300 bytes a stream fails the long run, one of 5 KiB the short one.
"""

from __future__ import annotations

import asyncio
import signal
import time
from asyncio import TaskGroup
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import pytest

from outrelay.lib.errors import ErrorCode
from outrelay.lib.identity.uri import Identity
from outrelay.lib.values import address_text
from tests.integration.attackers import Mallories
from tests.integration.peers import MIB, calling, ping
from tests.integration.traffic import ECHO, Traffic, obedient
from tests.integration.world import ANY_PORT, APP, IMPATIENT, World
from tests.support.patience import PATIENCE
from tests.support.peers import FEATURES
from tests.support.processes import Program
from tests.support.relay_peer import reset_code

pytestmark = pytest.mark.asyncio(loop_scope="session")

AGENT_FLAGS = IMPATIENT

KILLED = 20
"""Streams of each agent that is killed."""

SETTLED = PATIENCE + 10.0
"""Seconds for the last traces to go; a killed agent's connection is given up after ten."""


@pytest.mark.parametrize(
    ("warm_up", "streams", "growth"),
    [
        pytest.param(200, 800, 4 * MIB, id="1000"),
        pytest.param(
            10_000,
            10_000,
            3 * MIB,
            id="20000",
            marks=[pytest.mark.soak, pytest.mark.timeout(420)],
        ),
    ],
)
async def test_nothing_is_left_of_streams(
    own_world: World, warm_up: int, streams: int, growth: int
) -> None:
    world = own_world
    programs = (world.controller, world.relay, world.provider, world.consumer)
    traffic = Traffic(world.at)
    files = [each.files() for each in programs]
    async with world.backend.serving(obedient):
        await traffic.run(warm_up)
        await _nothing_open(world)
        threads = [each.threads() for each in programs]
        memory = [each.rss() for each in programs]
        async with TaskGroup() as group:
            group.create_task(_a_consumer_is_killed(world), name="consumer to be killed")
            group.create_task(_a_provider_is_killed(world), name="provider to be killed")
            group.create_task(traffic.run(streams), name="traffic")
        await _nothing_open(world)
    assert traffic.gone.total() == warm_up + streams
    await _until_no_more(programs, Program.files, files)
    await _until_no_more(programs, Program.threads, threads)
    grown = [each.rss() - was for each, was in zip(programs, memory, strict=True)]
    assert max(grown) < growth, grown


async def _until_no_more(
    programs: Sequence[Program], number: Callable[[Program], int], before: Sequence[int]
) -> None:
    """Wait until no program has more of something than before."""
    deadline = time.monotonic() + SETTLED
    while any(number(each) > was for each, was in zip(programs, before, strict=True)):
        now = [number(each) for each in programs]
        assert time.monotonic() < deadline, f"{number.__name__}: {before} became {now}"
        await asyncio.sleep(0.1)


async def _nothing_open(world: World) -> None:
    """Wait until the relay carries no stream."""
    async with asyncio.timeout(SETTLED):
        while (await world.cli("fleet", "streams", "--output", "json")).stdout:
            pass


async def _a_consumer_is_killed(world: World) -> None:
    agent, identity = await world.start_stranger(f"--consume={APP}@{ANY_PORT}")
    async with AsyncExitStack() as calls:
        for _ in range(KILLED):
            call = await calls.enter_async_context(calling(await agent.listening()))
            call[1].write(ECHO)
            await ping(*call)
        await _kill(world, agent, identity)


async def _a_provider_is_killed(world: World) -> None:
    target = address_text(world.backend.address)
    agent, identity = await world.start_stranger(f"--expose=shop-victim={target}")
    async with Mallories(world).mallory(*FEATURES) as consumer:
        streams = [
            await consumer.open("shop-victim", stream_id=1 + number) for number in range(KILLED)
        ]
        for stream in streams:
            await consumer.ready()
            await stream.write(ECHO)
        await _kill(world, agent, identity)
        for stream in streams:
            assert await reset_code(stream) is ErrorCode.LEG_LOST


async def _kill(world: World, agent: Program, identity: Identity) -> None:
    """End an agent without a word, and wait until its relay has noticed."""
    await agent.stop(signal.SIGKILL)
    await world.relay.event("agent gone", agent=identity.uri, timeout=SETTLED)

"""What a relay is told to let an agent and a tenant have of it; who wants more gets a 429."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest
import pytest_asyncio

from outrelay.lib.errors import Reset
from outrelay.lib.orp.frame import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Stream
from tests.integration.attackers import Mallories
from tests.integration.peers import abort, answer_to, calling
from tests.integration.world import ANY_PORT, APP, TENANT, World
from tests.support.patience import PATIENCE
from tests.support.peers import FEATURES, AgentPeer, accept, read_all, rejection
from tests.support.processes import Program

pytestmark = pytest.mark.asyncio(loop_scope="session")

BOUNDS = (
    *("--max-streams-per-agent", "2", "--max-streams-per-tenant", "3"),
    *("--max-services-per-agent", "2", "--max-services-per-tenant", "3"),
    *("--opens-per-second", "20"),
)
BURST = 40
"""Twice as many at once."""


@pytest_asyncio.fixture(loop_scope="session")
async def narrow(world: World) -> AsyncIterator[Program]:
    """A relay with little room."""
    relay = await world.start_other_relay("narrow", *BOUNDS)
    yield relay
    await relay.stop()


Connected = AbstractAsyncContextManager[AgentPeer]


def agent(world: World, narrow: Program, tenant: str = TENANT) -> Connected:
    """An agent of a tenant that nobody has heard of."""
    return Mallories(world, tenant=tenant, relay=narrow).mallory(*FEATURES)


async def opened(consumer: AgentPeer, provider: AgentPeer, stream_id: int) -> tuple[Stream, Stream]:
    """Both ends of a stream."""
    near = await consumer.open("shop-narrow", stream_id=stream_id)
    far, _ = await provider.incoming()
    await accept(far)
    await asyncio.gather(consumer.ready(), provider.ready())
    return near, far


async def end(near: Stream, far: Stream) -> None:
    """End a stream both ways."""
    for one, other in ((near, far), (far, near)):
        one.finish()
        assert await read_all(other) == b""


async def test_streams(world: World, narrow: Program) -> None:
    async with (
        agent(world, narrow) as one,
        agent(world, narrow) as other,
        agent(world, narrow) as provider,
    ):
        await provider.register("shop-narrow")
        streams = [await opened(one, provider, 1), await opened(one, provider, 2)]
        too_many = await rejection(await one.open("shop-narrow", stream_id=3))
        assert too_many == (429, "the agent has 2 streams open, the most allowed")
        streams.append(await opened(other, provider, 4))
        too_many = await rejection(await other.open("shop-narrow", stream_id=5))
        assert too_many == (429, "the tenant has 3 streams open, the most allowed")
        await end(*streams.pop())
        await narrow.event("stream ended", stream_id=f"{4:016x}")
        streams.append(await opened(other, provider, 5))
        async with agent(world, narrow, tenant="globex") as stranger:
            denied = await rejection(await stranger.open("shop-narrow", stream_id=6))
            assert denied[0] == 403  # a word about policy, and none about room
        for stream in streams:
            await end(*stream)


async def test_services(world: World, narrow: Program) -> None:
    async with agent(world, narrow) as one, agent(world, narrow) as other:
        for name in ("one", "two"):
            await one.register(name)
        assert await refusal(one, "three") == (429, "the agent has 2 services, the most allowed")
        await one.deregister("two")
        await one.register("three")
        await other.register("one")
        assert await refusal(other, "two") == (429, "the tenant has 3 services, the most allowed")
        async with agent(world, narrow, tenant="globex") as stranger:
            for name in ("one", "two"):
                await stranger.register(name)


async def refusal(agent: AgentPeer, service: str) -> tuple[int, str]:
    """What the relay says to a registration it refuses."""
    await agent.ask_to_register(service)
    nack = await agent.expect(FrameType.REGISTER_NACK, orp.StreamReject)
    assert nack.service_name == service
    return nack.code, nack.reason


async def test_streams_a_second(world: World, narrow: Program) -> None:
    async with agent(world, narrow) as busy, agent(world, narrow) as other:
        codes = Counter[int]()
        for stream_id in range(1, 200):
            code, reason = await rejection(await busy.open("shop-nowhere", stream_id=stream_id))
            codes[code] += 1
        assert codes[404] >= BURST
        assert codes[429] > 0
        assert (code, reason) == (429, "the agent opens more than 20 streams a second")
        assert (await rejection(await other.open("shop-nowhere", stream_id=1)))[0] == 404


async def test_a_consumer_is_told_what_it_may_not(world: World, narrow: Program) -> None:
    """Our own agent says so to the person who looks into its log."""
    async with agent(world, narrow) as provider:
        await provider.register(APP)
        consumer = await world.start_agent("agent-a", f"--consume={APP}@{ANY_PORT}", relay=narrow)
        await consumer.event("ready")
        at = await consumer.listening()
        async with calling(at) as (_, one), calling(at) as (_, other):
            calls = [(await provider.incoming())[0] for _ in range(2)]
            with pytest.raises(ConnectionResetError):
                await answer_to(at)
            told = await consumer.event("open refused", code=429)
            assert told["hint"]
            for writer in (one, other):
                await abort(writer)
        # The provider need not answer for its place to be free.
        async with asyncio.timeout(PATIENCE):
            for call in calls:
                with pytest.raises(Reset):
                    await call.read()
        await consumer.stop()

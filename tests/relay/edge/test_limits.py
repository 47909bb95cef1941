"""What one agent, and one tenant, may have of a relay: refused beyond it, others as before."""

from __future__ import annotations

import asyncio

import pytest

from outrelay.lib.errors import ErrorCode
from outrelay.lib.identity.uri import Identity
from outrelay.lib.orp.frame import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.relay.limits import Bounds, Limits
from tests.relay.rooms import ALLOW_ALL, Rooms, call, relay_rooms, rule
from tests.support.events import events
from tests.support.peers import (
    AGENT_A,
    AGENT_B,
    AGENT_C,
    FEATURES,
    STRANGER,
    AgentPeer,
    accept,
    rejection,
)
from tests.support.turns import everybody_waits, until
from tests.support.virtual_loop import elapsed

pytestmark = pytest.mark.virtual_time

BOTH_TENANTS = [ALLOW_ALL, rule("*", tenant="globex")]
FOREIGNER = Identity.parse("outrelay://globex/agent/0f0f0f0f-0000-4000-8000-000000000001")

MANY = 10**6


async def refused(peer: AgentPeer, stream_id: int = 999, service: str = "echo") -> tuple[int, str]:
    """How the relay refuses a call."""
    return await rejection(await peer.open(service, stream_id=stream_id))


def reached(relay: Rooms, limit: str) -> float:
    return relay.metric("outrelay_limits_reached_total", limit=limit)


def in_use(relay: Rooms, what: str) -> float:
    return relay.metric("outrelay_in_use", what=what)


# ---- streams -----------------------------------------------------------------------------------


async def test_streams_of_a_tenant_are_bounded_over_its_agents() -> None:
    limits = Limits(streams=Bounds(agent=9, tenant=2))
    async with relay_rooms(rules=BOTH_TENANTS, limits=limits) as relay:
        line = await call(relay, stream_id=1)
        other = await relay.agent(AGENT_C, *FEATURES)
        await call(relay, stream_id=2, consumer=other, provider=line.provider)
        assert in_use(relay, "streams") == 2

        for peer in (line.consumer, other):
            assert await refused(peer) == (429, "the tenant has 2 streams open, the most allowed")
        assert reached(relay, "streams_per_tenant") == 2
        foreign = await relay.provider(STRANGER)
        await call(relay, stream_id=1, consumer=await relay.agent(FOREIGNER), provider=foreign)

        line.near.reset(ErrorCode.CANCELLED)
        line.near.stop(ErrorCode.CANCELLED)
        await until(lambda: len(relay.pairs) == 2)
        await call(relay, stream_id=3, consumer=other, provider=line.provider)


# ---- streams being opened ----------------------------------------------------------------------


async def test_streams_that_say_nothing_are_bounded_until_they_are_dropped() -> None:
    limits = Limits(opening=Bounds(agent=3, tenant=9))
    async with relay_rooms(limits=limits) as relay:
        peer = await relay.agent(AGENT_A, *FEATURES)
        silent = [await peer.connection.open_stream() for _ in range(3)]
        for stream in silent:
            await stream.write(b"\x20")
        await until(lambda: in_use(relay, "opening") == 3)

        expected = (429, "the agent has 3 streams being opened, the most allowed")
        assert await refused(peer) == expected
        assert await refused(await relay.agent(AGENT_A)) == expected
        assert (await refused(await relay.agent(AGENT_C)))[0] == 404
        await asyncio.sleep(5)
        assert (await refused(peer))[0] == 404
        assert (in_use(relay, "opening"), in_use(relay, "streams")) == (0, 0)


async def test_streams_nobody_accepts_are_bounded_and_those_accepted_count_no_more() -> None:
    limits = Limits(opening=Bounds(agent=2, tenant=3))
    async with relay_rooms(limits=limits) as relay:
        provider, consumer = await relay.provider(), await relay.agent(AGENT_A, *FEATURES)
        for stream_id in range(1, 11):
            await call(relay, stream_id=stream_id, consumer=consumer, provider=provider)
        assert (in_use(relay, "opening"), in_use(relay, "streams")) == (0, 10)

        for stream_id in (11, 12):
            await consumer.open("echo", stream_id=stream_id)
            await provider.incoming()
        assert (in_use(relay, "opening"), in_use(relay, "streams")) == (2, 12)
        assert (await refused(consumer))[1].startswith("the agent has 2 streams being opened")
        other = await relay.agent(AGENT_C, *FEATURES)
        await other.open("echo", stream_id=13)
        await provider.incoming()
        assert (await refused(other))[1].startswith("the tenant has 3 streams being opened")
        assert reached(relay, "opening_per_agent") == reached(relay, "opening_per_tenant") == 1

        await asyncio.sleep(11)  # nobody accepted
        await call(relay, stream_id=14, consumer=consumer, provider=provider)


# ---- how often ---------------------------------------------------------------------------------


async def opened(peer: AgentPeer, times: int) -> set[int]:
    """The codes with which calls of a service that nobody offers are refused."""
    return {(await refused(peer, 1 + number, "nobody"))[0] for number in range(times)}


async def test_an_agent_that_opens_too_often_must_wait() -> None:
    limits = Limits(opens_per_second=Bounds(agent=10, tenant=MANY))
    async with relay_rooms(limits=limits) as relay:
        peer = await relay.agent(AGENT_A, *FEATURES)
        assert await opened(peer, 20) == {404}
        told = (429, "the agent opens more than 10 streams a second")
        assert await refused(peer) == told
        assert await refused(await relay.agent(AGENT_A)) == told  # no new budget
        assert await opened(await relay.agent(AGENT_C), 20) == {404}
        await asyncio.sleep(0.1)
        assert await opened(peer, 1) == {404}
        assert await refused(peer) == told


async def test_a_tenants_agents_open_no_more_together_than_it_may() -> None:
    limits = Limits(opens_per_second=Bounds(agent=10, tenant=15))
    async with relay_rooms(rules=BOTH_TENANTS, limits=limits) as relay:
        one, other = await relay.agent(AGENT_A, *FEATURES), await relay.agent(AGENT_C)
        assert await opened(one, 15) == await opened(other, 15) == {404}
        told = (429, "the tenant opens more than 15 streams a second")
        assert await refused(one) == await refused(other) == told
        assert await opened(await relay.agent(STRANGER), 20) == {404}
        assert reached(relay, "opens_per_tenant") == 2


async def test_a_flood_costs_others_nothing_and_is_counted_and_hardly_told() -> None:
    limits = Limits(opens_per_second=Bounds(agent=10, tenant=20))
    with events() as seen:
        async with relay_rooms(limits=limits) as relay:
            peer = await relay.agent(AGENT_A, *FEATURES)
            assert await opened(peer, 20) == {404}
            decisions = relay.metric("outrelay_policy_decisions_total", decision="allow")
            assert await opened(peer, 500) == {429}
            assert reached(relay, "opens_per_agent") == 500
            assert relay.metric("outrelay_streams_ended_total", result="429") == 500
            assert relay.metric("outrelay_policy_decisions_total", decision="allow") == decisions
            assert {event.reason[:3] for event in relay.events("reject")} == {"404"}
            assert await opened(await relay.agent(AGENT_C), 20) == {404}
    assert len(seen.of("stream refused", code=429)) == 1


async def test_what_a_busy_agent_needs_is_within_the_bounds() -> None:
    """500 opens a second, and 1 000 streams at a time that were opened all at once."""
    async with relay_rooms(max_streams=1001) as relay:
        provider, consumer = await relay.provider(), await relay.agent(AGENT_A, *FEATURES)
        for number in range(1, 1001):
            await consumer.open("echo", stream_id=number)
        far = [(await provider.incoming())[0] for _ in range(1000)]
        for stream in far:
            await accept(stream)
        assert {(await consumer.ready()).stream_id for _ in far} == set(range(1, 1001))
        assert len(relay.pairs) == 1000

    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        codes = set()
        for number in range(1, 3001):
            codes.add((await refused(consumer, number, "nobody"))[0])
            await asyncio.sleep(1 / 500)
        assert codes == {404}
        assert elapsed() == 6.0


# ---- services ----------------------------------------------------------------------------------


async def nack(peer: AgentPeer, name: str) -> tuple[int, str]:
    """How the relay refuses a registration."""
    await peer.ask_to_register(name)
    message = await peer.expect(FrameType.REGISTER_NACK, orp.StreamReject)
    assert message.service_name == name
    return message.code, message.reason


async def test_services_of_an_agent_are_bounded_over_its_connections() -> None:
    limits = Limits(services=Bounds(agent=2, tenant=9))
    async with relay_rooms(limits=limits) as relay:
        one = await relay.provider(AGENT_B, "one")
        other = await relay.provider(AGENT_B, "two")
        assert in_use(relay, "services") == 2
        told = (429, "the agent has 2 services, the most allowed")
        for peer in (one, other):
            assert await nack(peer, "three") == told
        await other.register("one")  # which the agent offers already
        assert in_use(relay, "services") == 2
        await one.deregister("one")
        assert await nack(one, "three") == told  # the other process offers it still
        await other.deregister("one")
        await one.register("three")
        assert reached(relay, "services_per_agent") == 3


async def test_services_of_a_tenant_are_bounded_over_its_agents() -> None:
    limits = Limits(services=Bounds(agent=2, tenant=3))
    async with relay_rooms(limits=limits) as relay:
        one = await relay.provider(AGENT_B, "one")
        await one.register("two")
        other = await relay.provider(AGENT_C, "one")
        assert await nack(other, "three") == (429, "the tenant has 3 services, the most allowed")
        stranger = await relay.provider(STRANGER, "one")
        await stranger.register("two")
        one.connection.close()
        await until(lambda: in_use(relay, "services") == 3)
        await other.register("three")
        await everybody_waits()
        assert (reached(relay, "services_per_tenant"), in_use(relay, "services")) == (1, 4)


async def test_an_agent_that_connects_anew_takes_its_services_along() -> None:
    limits = Limits(services=Bounds(agent=2, tenant=3))
    async with relay_rooms(limits=limits) as relay:
        instance = b"1" * 16
        first = await relay.agent(AGENT_B, *FEATURES, instance=instance)
        for name in ("one", "two"):
            await first.register(name)
        again = await relay.agent(AGENT_B, *FEATURES, instance=instance)
        await first.connection.wait_closed()
        await everybody_waits()
        assert in_use(relay, "services") == 2
        assert (await nack(again, "three"))[0] == 429
        again.connection.close()
        await until(lambda: in_use(relay, "services") == 0)

"""Agents that do too much of what they may: others are served, and the log stays short."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.empty_pb2 import Empty

from outrelay.lib.errors import Closed, ErrorCode, Reset
from outrelay.lib.orp.frame import FrameType, encode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.relay.edge.session import Offer
from outrelay.relay.limits import Bounds, Limits
from tests.relay.edge.resuming import claim, offer, resume
from tests.relay.rooms import Rooms, call, relay_rooms, rule
from tests.support.events import events
from tests.support.peers import AGENT_A, AGENT_B, AGENT_C, FEATURES, AgentPeer, rejection
from tests.support.turns import everybody_waits, until

MANY = 300


async def refused_registration(peer: AgentPeer) -> tuple[int, str]:
    """Code and reason of the next control frame, which is REGISTER_NACK."""
    nack = await peer.expect(FrameType.REGISTER_NACK, orp.StreamReject)
    return nack.code, nack.reason


async def open_many(peer: AgentPeer, service: str) -> set[int]:
    """The codes with which the relay refuses many streams."""
    codes = set()
    for number in range(1, MANY + 1):
        codes.add((await rejection(await peer.open(service, stream_id=number)))[0])
    return codes


# ---- OPEN_STREAM -------------------------------------------------------------------------------


async def test_refused_streams_are_counted_all_and_logged_once_a_second() -> None:
    with events() as seen:
        async with relay_rooms(rules=[rule("echo"), rule("nobody")]) as relay:
            one, other = await relay.agent(AGENT_A, *FEATURES), await relay.agent(AGENT_B)
            assert await open_many(one, "vault") == {403}
            assert await open_many(one, "nobody") == {404}
            assert await open_many(other, "nobody") == {404}

            assert relay.metric("outrelay_streams_ended_total", result="403") == MANY
            assert relay.metric("outrelay_streams_ended_total", result="404") == 2 * MANY
    lines = seen.of("stream refused")
    assert len(lines) < 20  # three at once, and as many for each second that it took
    assert [(each["consumer"], each["code"]) for each in lines][:3] == [
        (AGENT_A.uri, 403),
        (AGENT_A.uri, 404),
        (AGENT_B.uri, 404),
    ]


async def test_streams_that_never_begin_are_counted_all_and_logged_once_a_second() -> None:
    with events() as seen:
        async with relay_rooms() as relay:
            peer = await relay.agent(AGENT_A)
            for _ in range(MANY):
                stream = await peer.connection.open_stream()
                await stream.write(b"GET / HTTP/1.1\r\n\r\n")
                with pytest.raises(Reset) as caught:
                    await stream.read()
                assert caught.value.code is ErrorCode.PROTOCOL
            assert relay.metric("outrelay_streams_ended_total", result="protocol") == MANY
    assert 1 <= len(seen.of("stream dropped", consumer=AGENT_A.uri)) < 10


# ---- STREAM_RESUME -----------------------------------------------------------------------------


async def test_a_flood_of_halves_is_bounded_and_others_go_on() -> None:
    bounds = Bounds(agent=20, tenant=1000)
    with events() as seen:
        async with relay_rooms(limits=Limits(halves=bounds)) as relay:
            hostile = await relay.agent(AGENT_C, *FEATURES)
            tasks = len(asyncio.all_tasks())
            for number in range(1, MANY + 1):
                await offer(hostile, claim(stream_id=1000 + number), behind=bytes(100))
                if number % 50 == 0:
                    await everybody_waits()
            assert relay.metric("outrelay_in_use", what="halves") == 20
            assert relay.metric("outrelay_streams_ended_total", result="429") == MANY - 20
            assert len(asyncio.all_tasks()) - tasks <= 3 * 20
            stream = await resume(
                await relay.agent(AGENT_A, *FEATURES), await relay.agent(AGENT_B, *FEATURES)
            )
            await stream.near.write(b"still served")
            assert await stream.far.read() == b"still served"
            hostile.connection.close()
            await until(lambda: relay.metric("outrelay_in_use", what="halves") == 0)
    assert 1 <= len(seen.of("stream refused", consumer=AGENT_C.uri)) < 10


async def test_a_flood_of_claims_to_a_live_stream_ends_others_nothing() -> None:
    async with relay_rooms() as relay:
        both = await call(relay)
        hostile = await relay.agent(AGENT_C, *FEATURES)
        for _ in range(MANY):
            assert (await rejection(await offer(hostile, claim())))[0] == 409
        await both.near.write(b"still here")
        assert await both.far.read() == b"still here"


# ---- REGISTER ----------------------------------------------------------------------------------


async def test_refused_registrations_are_counted_all_and_logged_once_a_second() -> None:
    with events() as seen:
        async with relay_rooms(limits=Limits(services=Bounds(agent=1, tenant=9))) as relay:
            peer = await relay.provider()
            for number in range(MANY):
                await peer.ask_to_register(f"service-{number}")
                assert (await refused_registration(peer))[0] == 429
            assert relay.metric("outrelay_registrations_refused_total", code="429") == MANY
    assert 1 <= len(seen.of("registration refused", agent=AGENT_B.uri)) < 10


def few_changes(burst: int = 3) -> Limits:
    """Limits under which nobody may change more than ``burst`` offers."""
    return Limits(registrations_per_second=0.001, registrations_burst=burst)


async def test_an_agent_that_changes_its_services_too_often_must_wait() -> None:
    async with relay_rooms(limits=few_changes()) as relay:
        peer = await relay.agent(AGENT_B, *FEATURES)
        await peer.register("one")
        await peer.deregister("one")
        await peer.register("one")
        await peer.register("one", weight=2)
        for name, weight in (("two", 0), ("one", 3)):
            await peer.ask_to_register(name, weight=weight)
            code, reason = await refused_registration(peer)
            assert (code, reason) == (429, "the agent changes its services too often")

        assert {name: offer.weight for name, offer in offers(relay).items()} == {"one": 2}
        assert len(relay.published) == 4
        assert len(relay.events("")) == 1  # registrations, counted together
        await (await relay.agent(AGENT_C, *FEATURES)).register("two")  # others may


def offers(relay: Rooms) -> dict[str, Offer]:
    return relay.directory.offers_of(AGENT_B.uri)


async def test_repeating_a_registration_is_no_change() -> None:
    async with relay_rooms(limits=few_changes(burst=1)) as relay:
        peer = await relay.agent(AGENT_B, *FEATURES)
        for _ in range(20):
            await peer.register("one")


async def test_a_new_connection_is_no_new_budget() -> None:
    async with relay_rooms(limits=few_changes(burst=1)) as relay:
        first = await relay.agent(AGENT_B, *FEATURES)
        await first.register("one")
        first.connection.close()
        again = await relay.agent(AGENT_B, *FEATURES)
        await again.ask_to_register("two")
        assert (await refused_registration(again))[0] == 429


# ---- connections -------------------------------------------------------------------------------


async def test_refused_connections_are_counted_all_and_logged_once_a_second() -> None:
    with events() as seen:
        async with relay_rooms() as relay:
            for _ in range(MANY):
                peer = await relay.peer(AGENT_A)
                with pytest.raises(Closed):
                    await peer.hello(uri=AGENT_B.uri)
            assert relay.metric("outrelay_connections_refused_total", reason="denied") == MANY
    assert 1 <= len(seen.of("connection refused")) < 10


async def test_connections_that_end_at_once_are_logged_once_a_second() -> None:
    with events() as seen:
        async with relay_rooms() as relay:
            for _ in range(MANY):
                (await relay.peer(AGENT_A)).connection.close()
            await relay.agent(AGENT_B)
    assert 1 <= len(seen.of("connection ended before HELLO")) < 10


async def test_broken_rules_are_counted_all_and_logged_once_a_second() -> None:
    with events() as seen:
        async with relay_rooms() as relay:
            for _ in range(MANY):
                peer = await relay.agent(AGENT_A)
                await peer.send(FrameType.HELLO, orp.Hello())
                assert (await peer.connection.wait_closed()).code is ErrorCode.PROTOCOL
            assert relay.metric("outrelay_connections_refused_total", reason="protocol") == MANY
    assert 1 <= len(seen.of("protocol error")) < 10


async def test_a_flood_of_pings_leaves_others_their_turn() -> None:
    many = 5_000
    async with relay_rooms() as relay:
        noisy, quiet = await relay.agent(AGENT_A, *FEATURES), await relay.agent(AGENT_B, *FEATURES)

        async def answers() -> None:
            for _ in range(many):
                await noisy.expect(FrameType.PONG, Empty)

        async with asyncio.TaskGroup() as group:
            heard = group.create_task(answers())
            await noisy.control.write(encode(FrameType.PING, Empty()) * many)
            await quiet.ping()
            assert not heard.done()

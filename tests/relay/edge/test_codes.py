"""Codes of ends on a carrier without codes: they come and go as STREAM_ENDED."""

from __future__ import annotations

import pytest

from outrelay.lib.errors import ErrorCode, Reset
from outrelay.lib.orp.frame import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.memory import MemoryConnection, MemoryStream
from tests.relay.edge.resuming import CONSUMERS, assert_ended, offer
from tests.relay.rooms import call, relay_rooms
from tests.support.peers import AGENT_A, AGENT_C, FEATURES, AgentPeer
from tests.support.turns import everybody_waits

LOST = orp.StreamEnded(stream_id=7, code=ErrorCode.LEG_LOST)


async def ended(peer: AgentPeer) -> orp.StreamEnded:
    """The next control frame, which says how a stream ends."""
    return await peer.expect(FrameType.STREAM_ENDED, orp.StreamEnded)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[ErrorCode]:
    """What the carrier was told of the ends of streams."""
    found: list[ErrorCode] = []
    monkeypatch.setattr(MemoryConnection, "tells_codes", False)
    monkeypatch.setattr(MemoryStream, "explain", lambda _, code: found.append(code))
    return found


async def test_a_leg_that_is_lost_is_said_before_the_other_is_reset(
    told: list[ErrorCode],
) -> None:
    async with relay_rooms() as relay:
        both = await call(relay)
        both.consumer.connection.close()
        assert await ended(both.provider) == LOST
        await assert_ended(both.far, ErrorCode.LEG_LOST)


async def test_a_reset_of_one_agent_is_said_to_the_other(told: list[ErrorCode]) -> None:
    async with relay_rooms() as relay:
        both = await call(relay)
        both.far.reset(ErrorCode.DENIED)
        assert await ended(both.consumer) == orp.StreamEnded(stream_id=7, code=ErrorCode.DENIED)


async def test_what_becomes_of_a_half_is_said(told: list[ErrorCode]) -> None:
    async with relay_rooms() as relay:
        agent = await relay.agent(AGENT_A, *FEATURES)
        half = await offer(agent, CONSUMERS)
        await everybody_waits()
        relay.edge.drain(1.0)
        await agent.expect(FrameType.GOAWAY, orp.Goaway)
        assert await ended(agent) == orp.StreamEnded(stream_id=7, code=ErrorCode.DRAIN)
        await assert_ended(half, ErrorCode.DRAIN)


async def test_what_an_agent_says_of_its_own_stream_is_told_to_the_carrier(
    told: list[ErrorCode],
) -> None:
    async with relay_rooms() as relay:
        both = await call(relay)
        stranger = await relay.agent(AGENT_C, *FEATURES)
        for peer in (stranger, both.consumer, both.provider):
            await peer.send(FrameType.STREAM_ENDED, LOST)
            await peer.ping()
        unknown = orp.StreamEnded(stream_id=8, code=ErrorCode.LEG_LOST)
        await both.consumer.send(FrameType.STREAM_ENDED, unknown)
        await both.consumer.ping()
        assert told == [ErrorCode.LEG_LOST] * 2


async def test_an_agent_that_knows_no_such_frame_gets_none(told: list[ErrorCode]) -> None:
    async with relay_rooms() as relay:
        both = await call(relay, consumer=await relay.agent(AGENT_A, "deregister/1"))
        both.far.reset(ErrorCode.DENIED)
        with pytest.raises(Reset):
            await both.near.read()
        await both.consumer.ping()  # answered by nothing but PONG

"""Opening streams that go wrong: what is no first frame, and what providers answer."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from outrelay.lib.errors import ErrorCode, Reset
from outrelay.lib.orp.frame import FrameType, encode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Stream
from tests.relay.edge.resuming import assert_ended
from tests.relay.rooms import Rooms, call, relay_rooms, severed
from tests.support.peers import (
    AGENT_A,
    AGENT_C,
    FEATURES,
    AgentPeer,
    accept,
    reject,
    rejection,
)
from tests.support.turns import everybody_waits
from tests.support.virtual_loop import elapsed


async def raw(peer: AgentPeer, data: bytes) -> Stream:
    """A data stream that begins with ``data``."""
    stream = await peer.connection.open_stream()
    await stream.write(data)
    return stream


@dataclass(frozen=True, slots=True)
class Asked:
    """A stream whose provider has yet to answer, from both ends."""

    consumer: AgentPeer
    provider: AgentPeer
    near: Stream
    far: Stream


async def provider_asked(relay: Rooms, *features: str) -> Asked:
    """A stream that a consumer with so many features opens, at its provider."""
    provider = await relay.provider()
    consumer = await relay.agent(AGENT_A, *features)
    near = await consumer.open("echo", stream_id=7)
    far, _incoming = await provider.incoming()
    return Asked(consumer, provider, near, far)


# ---- malformed ---------------------------------------------------------------------------------

MALFORMED = {
    "no protobuf": b"\x20\x10\x00\x00\x00\x00\x00\x02\xff\xff",
    "no service": encode(FrameType.OPEN_STREAM, orp.OpenStream(stream_id=7)),
    "no name": encode(FrameType.OPEN_STREAM, orp.OpenStream(target_service="a b", stream_id=7)),
    "no method": encode(
        FrameType.OPEN_STREAM, orp.OpenStream(target_service="a", method="\n", stream_id=7)
    ),
    "leave to expose for a method": encode(
        FrameType.OPEN_STREAM,
        orp.OpenStream(target_service="a", method="REGISTER", stream_id=7),
    ),
    "a long method": encode(
        FrameType.OPEN_STREAM, orp.OpenStream(target_service="a", method="m" * 256, stream_id=7)
    ),
    "no id": encode(FrameType.OPEN_STREAM, orp.OpenStream(target_service="echo")),
    "out of order": encode(FrameType.STREAM_ACCEPT, orp.StreamAccept()),
    "not of this relay": encode(FrameType.MIGRATE_TO_RELAY, orp.MigrateToRelay(stream_id=7)),
}


@pytest.mark.parametrize("first", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_first_frame_is_refused(first: bytes) -> None:
    async with relay_rooms() as relay:
        await relay.provider()
        consumer = await relay.agent(AGENT_A, *FEATURES)

        assert (await rejection(await raw(consumer, first)))[0] == 400
        await consumer.ping()
        assert relay.metric("outrelay_streams_ended_total", result="400") == 1


NOT_FRAMES = {
    "an unknown type": b"\x27\xff\x00\x00\x00\x00\x00\x00",
    "another version": b"\x40\x10\x00\x00\x00\x00\x00\x00",
    "too long": b"\x20\x10\x00\x00\x00\x01\x00\x01",
}


@pytest.mark.parametrize("first", NOT_FRAMES.values(), ids=NOT_FRAMES.keys())
async def test_a_first_frame_that_is_none_resets_the_stream(first: bytes) -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A)

        await assert_ended(await raw(consumer, first), ErrorCode.PROTOCOL)
        await consumer.ping()


@pytest.mark.parametrize("first", [b"", b"\x20\x10"])
async def test_a_stream_that_ends_before_its_first_frame_is_reset(first: bytes) -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A)
        stream = await raw(consumer, first)
        stream.finish()

        with pytest.raises(Reset) as caught:
            await stream.read()
        assert caught.value.code is ErrorCode.PROTOCOL


@pytest.mark.virtual_time
async def test_a_stream_that_says_too_little_for_five_seconds_is_reset() -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A)

        await assert_ended(await raw(consumer, b"\x20"), ErrorCode.PROTOCOL)
        assert elapsed() == 5.0


async def test_a_stream_that_is_reset_before_its_first_frame_is_dropped() -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A)
        (await raw(consumer, b"\x20")).reset(ErrorCode.CANCELLED)
        await everybody_waits()

        await consumer.ping()
        assert len(relay.pairs) == 0


# ---- the provider's answer ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ((503, "busy"), (503, "busy")),
        ((404, "no handler"), (404, "no handler")),
        ((502, "backend refused"), (502, "backend refused")),
        ((418, "teapot"), (503, "teapot")),
        ((0, ""), (503, "rejected by the provider")),
        ((503, "x" * 5000), (503, "x" * 512)),
    ],
)
async def test_a_providers_rejection_is_passed_on(
    said: tuple[int, str], heard: tuple[int, str]
) -> None:
    async with relay_rooms() as relay:
        asked = await provider_asked(relay, *FEATURES)
        await reject(asked.far, *said)

        assert await rejection(asked.near) == heard
        assert await asked.far.read() == b""
        assert len(relay.pairs) == 0
        assert [event.target for event in relay.events("reject")] == ["echo"]
        await asked.consumer.ping()  # no STREAM_READY came before


@pytest.mark.virtual_time
async def test_a_provider_that_does_not_answer_for_ten_seconds() -> None:
    async with relay_rooms() as relay:
        asked = await provider_asked(relay)

        assert (await rejection(asked.near))[0] == 504
        assert elapsed() == 10.0
        await assert_ended(asked.far, ErrorCode.CANCELLED)


@pytest.mark.virtual_time
async def test_a_provider_that_gives_no_stream_for_ten_seconds() -> None:
    async with relay_rooms(max_streams=2) as relay:
        line = await call(relay, stream_id=1)
        other = await relay.agent(AGENT_C, *FEATURES)
        await call(relay, stream_id=2, consumer=other, provider=line.provider)
        third = await relay.agent(AGENT_C)

        code, _reason = await rejection(await third.open("echo", stream_id=3))
        assert (code, elapsed()) == (504, 10.0)


@pytest.mark.parametrize("how", ["finish", "reset", "garbage", "another frame"])
async def test_a_provider_that_breaks_off(how: str) -> None:
    async with relay_rooms() as relay:
        asked = await provider_asked(relay)
        match how:
            case "finish":
                asked.far.finish()
            case "reset":
                asked.far.reset(ErrorCode.INTERNAL)
            case "garbage":
                await asked.far.write(b"HTTP/1.1 200 OK\r\n\r\n")
            case "another frame":
                await asked.far.write(encode(FrameType.REGISTER_ACK, orp.RegisterAck()))

        assert (await rejection(asked.near))[0] == 502
        assert len(relay.pairs) == 0


@pytest.mark.virtual_time
async def test_a_provider_whose_connection_goes_before_it_answers() -> None:
    async with relay_rooms() as relay:
        asked = await provider_asked(relay)
        severed(asked.provider)

        assert (await rejection(asked.near))[0] == 502
        assert elapsed() == 3.0


async def test_a_consumer_whose_connection_goes_before_the_answer() -> None:
    async with relay_rooms() as relay:
        asked = await provider_asked(relay)
        severed(asked.consumer)

        await assert_ended(asked.far, ErrorCode.CANCELLED)
        assert len(relay.pairs) == 0


async def test_a_consumer_that_gives_up_before_the_answer() -> None:
    async with relay_rooms() as relay:
        asked = await provider_asked(relay)
        asked.near.reset(ErrorCode.CANCELLED)
        asked.near.stop(ErrorCode.CANCELLED)

        await assert_ended(asked.far, ErrorCode.CANCELLED)  # which knows at once
        assert len(relay.pairs) == 0
        assert [event.reason for event in relay.events("reject")] == ["given up by the consumer"]
        assert relay.metric("outrelay_streams_ended_total", result="cancelled") == 1


@pytest.mark.parametrize("first", ["given up", "accepted"])
async def test_a_consumer_that_gives_up_when_the_provider_accepts(first: str) -> None:
    """Both are there when the relay looks: the provider's leg is nobody's if it is not ended."""
    async with relay_rooms() as relay:
        asked = await provider_asked(relay)
        if first == "accepted":
            await accept(asked.far)
        asked.near.reset(ErrorCode.CANCELLED)
        asked.near.stop(ErrorCode.CANCELLED)
        if first == "given up":
            await accept(asked.far)

        await assert_ended(asked.far, ErrorCode.CANCELLED)
        await everybody_waits()
        assert len(relay.pairs) == 0


async def test_a_consumer_that_no_longer_wants_to_know() -> None:
    async with relay_rooms(rules=[]) as relay:
        consumer = await relay.agent(AGENT_A)
        message = orp.OpenStream(target_service="echo", stream_id=7)
        near = await consumer.connection.open_stream()
        near.stop(ErrorCode.CANCELLED)
        await near.write(encode(FrameType.OPEN_STREAM, message))

        with pytest.raises(Reset):
            await near.wait_finished()
        await consumer.ping()

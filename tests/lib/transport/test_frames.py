"""Frames on a carrier's streams."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.empty_pb2 import Empty

from outrelay.lib.errors import RemoteProtocolError
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.orp.frame import encode
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.transport.frames import FrameReader, FrameWriter
from outrelay.lib.transport.memory import MemoryNetwork

AGENT = Identity.parse("outrelay://acme/agent/4a9c3f52-6d0e-4c0b-9a57-0d1f3b7e2c11")
RELAY = Identity.parse("outrelay://local/relay/r1")
READY = orp.StreamReady(stream_id=7)


async def two_ends() -> tuple[Stream, Stream]:
    """Both ends of a stream."""
    network = MemoryNetwork()
    listener = network.listen(("127.0.0.1", 0), RELAY)
    near = await network.dialer(AGENT).dial(listener.address, roles={Role.RELAY})
    far = await listener.accept()
    stream = await near.open_stream()
    await stream.write(b"")
    return stream, await far.accept_stream()


async def test_a_frame_arrives_however_it_was_cut() -> None:
    near, far = await two_ends()
    reader = FrameReader(near)
    for byte in encode(FrameType.STREAM_READY, READY):
        await far.write(bytes([byte]))
    assert await reader.expect(FrameType.STREAM_READY, orp.StreamReady) == READY


async def test_a_cancelled_receive_loses_nothing() -> None:
    near, far = await two_ends()
    reader = FrameReader(near)
    data = encode(FrameType.STREAM_READY, READY)
    await far.write(data[:5])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await reader.next_frame()
    await far.write(data[5:])
    assert await reader.expect(FrameType.STREAM_READY, orp.StreamReady) == READY


async def test_what_follows_a_frame_is_handed_over_raw() -> None:
    near, far = await two_ends()
    reader = FrameReader(near)
    await far.write(encode(FrameType.STREAM_READY, READY) + b"raw")
    await reader.next_frame()
    assert reader.rest() == b"raw"
    assert reader.rest() == b""


async def test_a_stream_that_ends_between_frames_has_no_more() -> None:
    near, far = await two_ends()
    reader = FrameReader(near)
    await far.write(encode(FrameType.PING, Empty()))
    far.finish()
    frame = await reader.next_frame()
    assert frame is not None
    assert frame.name == "PING"
    assert await reader.next_frame() is None
    with pytest.raises(RemoteProtocolError, match=r"expected PING, got the stream's end"):
        await reader.expect(FrameType.PING, Empty)


async def test_a_stream_that_ends_inside_a_frame_is_an_error() -> None:
    near, far = await two_ends()
    reader = FrameReader(near)
    await far.write(encode(FrameType.STREAM_READY, READY)[:-1])
    far.finish()
    with pytest.raises(RemoteProtocolError, match="inside a frame"):
        await reader.next_frame()


async def test_another_frame_than_expected_is_an_error() -> None:
    near, far = await two_ends()
    reader = FrameReader(near)
    await far.write(encode(FrameType.PING, Empty()))
    with pytest.raises(RemoteProtocolError, match="expected HELLO_ACK, got PING"):
        await reader.expect(FrameType.HELLO_ACK, orp.HelloAck)


async def test_frames_of_many_senders_do_not_mix() -> None:
    near, far = await two_ends()
    writer, reader = FrameWriter(near), FrameReader(far)
    reasons = [f"{number}" * 60_000 for number in range(10)]
    async with asyncio.TaskGroup() as group:
        for reason in reasons:
            frame = orp.StreamReject(code=403, reason=reason)
            group.create_task(writer.send(FrameType.STREAM_REJECT, frame))
        for reason in reasons:
            got = await reader.expect(FrameType.STREAM_REJECT, orp.StreamReject)
            assert got.reason == reason

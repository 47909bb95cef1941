"""Agents that resume streams, as raw peers of the relay under test."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from outrelay.lib.errors import ErrorCode, Reset
from outrelay.lib.identity.uri import Identity
from outrelay.lib.orp.frame import FrameType, encode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.transport.frames import FrameReader
from tests.support.peers import AGENT_A, AGENT_B, AgentPeer


def claim(
    expected: Identity = AGENT_B,
    *,
    role: orp.Role.ValueType = orp.Role.CONSUMER,
    service: str = "echo",
    stream_id: int = 7,
    at: tuple[int, int] = (0, 0),
) -> orp.StreamResume:
    """What an agent of ours says of a stream it had with ``expected``."""
    return orp.StreamResume(
        stream_id=stream_id,
        my_position=at[0],
        peer_ack_position=at[1],
        peer_agent_uri=expected.uri,
        target_service=service,
        role=role,
    )


CONSUMERS = claim(AGENT_B, at=(100, 20))
PROVIDERS = claim(AGENT_A, role=orp.Role.PROVIDER, at=(50, 70))


async def offer(peer: AgentPeer, half: orp.StreamResume, *, behind: bytes = b"") -> Stream:
    """A data stream that begins with STREAM_RESUME."""
    stream = await peer.connection.open_stream()
    await stream.write(encode(FrameType.STREAM_RESUME, half) + behind)
    return stream


async def echo(stream: Stream) -> tuple[orp.StreamResume, bytes]:
    """What the relay tells of the other half, and the bytes that came right behind."""
    frames = FrameReader(stream)
    return await frames.expect(FrameType.STREAM_RESUME, orp.StreamResume), frames.rest()


async def assert_ended(stream: Stream, code: ErrorCode) -> None:
    """Both directions of ``stream`` are ended with ``code``."""
    for ending in (stream.read(), stream.wait_finished()):
        with pytest.raises(Reset) as caught:
            await ending
        assert caught.value.code is code


@dataclass(kw_only=True)
class Resumed:
    """A resumed stream, seen from both agents."""

    near: Stream
    far: Stream


async def resume(consumer: AgentPeer, provider: AgentPeer) -> Resumed:
    """Have two agents go on with stream 7."""
    near = await offer(consumer, CONSUMERS)
    far = await offer(provider, PROVIDERS)
    assert (await echo(near))[0] == PROVIDERS
    assert (await echo(far))[0] == CONSUMERS
    return Resumed(near=near, far=far)

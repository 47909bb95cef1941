"""A lasting stream whose far end, relay and peer, a test plays in raw frames."""

from __future__ import annotations

from outrelay.lib.orp.frame import encode
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.transport.frames import FrameReader
from tests.support.relay_peer import CONSUMER, PROVIDER, Incoming, Link, Opened

RESUMES = ("deregister/1", "resume/2")


async def ready(link: Link, stream_id: int, peer: str) -> None:
    """STREAM_READY of a peer that can resume."""
    frame = orp.StreamReady(stream_id=stream_id, peer_agent_uri=peer, peer_features=RESUMES)
    await link.send(FrameType.STREAM_READY, frame)


async def opened(link: Link) -> Opened:
    """The next stream the agent opens, ready for its bytes."""
    opened = await link.opened()
    await ready(link, opened.stream_id, PROVIDER)
    return opened


async def served(link: Link, service: str) -> Incoming:
    """A stream to the agent that it has accepted, ready for bytes."""
    incoming = await link.incoming(service)
    await incoming.accepted()
    await ready(link, incoming.stream_id, CONSUMER)
    return incoming


async def offered(link: Link, stream_id: int) -> tuple[Stream, orp.StreamResume]:
    """The half that the agent offers next, and what it says of it."""
    half = await link.connection.accept_stream()
    resume = await FrameReader(half).expect(FrameType.STREAM_RESUME, orp.StreamResume)
    assert resume.stream_id == stream_id
    return half, resume


async def echo(half: Stream, *, sent: int = 0, taken: int = 0) -> None:
    """The peer's half has come, and says how far it is."""
    frame = orp.StreamResume(my_position=sent, peer_ack_position=taken)
    await half.write(encode(FrameType.STREAM_RESUME, frame))


async def checkpoint(
    link: Link, stream_id: int, *, sent: int = 0, taken: int = 0, final: int | None = None
) -> None:
    """The peer's checkpoint."""
    frame = orp.StreamCheckpoint(
        stream_id=stream_id, my_position=sent, peer_ack_position=taken, final_position=final
    )
    await link.send(FrameType.STREAM_CHECKPOINT, frame)

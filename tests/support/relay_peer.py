"""A relay that a test plays by hand, in raw ORP frames, on any carrier.

    relay = RelayPeer(listener)
    link = await relay.accept()                 # HELLO, HELLO_ACK
    assert await link.registered() == "db"      # REGISTER, REGISTER_ACK
    opened = await link.opened()                # OPEN_STREAM, on its data stream
    await link.ready(opened.stream_id)          # STREAM_READY, on the control stream
    await opened.stream.write(b"...")

What a method says happens is what the wire saw; nothing is done that was not asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.message import Message

from outrelay.lib.errors import ErrorCode, Reset
from outrelay.lib.orp.frame import encode
from outrelay.lib.orp.types import Frame, FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Connection, Listener, Stream
from outrelay.lib.transport.frames import FrameReader, message_of

FEATURES = ("deregister/1",)
PROVIDER = "outrelay://acme/agent/99999999-0000-4000-8000-000000000002"
CONSUMER = "outrelay://acme/agent/99999999-0000-4000-8000-000000000001"


async def read_all(stream: Stream) -> bytes:
    """Everything up to the stream's end."""
    data = bytearray()
    while part := await stream.read():
        data += part
    return bytes(data)


async def read_exactly(stream: Stream, size: int) -> bytes:
    """The next ``size`` bytes."""
    data = bytearray()
    while len(data) < size:
        part = await stream.read(size - len(data))
        assert part, f"the stream ended after {bytes(data)!r}"
        data += part
    return bytes(data)


async def reset_code(stream: Stream) -> ErrorCode:
    """The code with which the peer resets its direction; what came before is dropped."""
    try:
        while await stream.read():
            pass
    except Reset as reset:
        return reset.code
    raise AssertionError("the stream ended without a reset")


@dataclass(frozen=True, slots=True)
class Opened:
    """A data stream that the agent opened."""

    stream: Stream
    stream_id: int
    service: str
    method: str = ""

    async def reject(self, code: int, reason: str) -> None:
        """Refuse it as relays do: one frame, then the end."""
        frame = orp.StreamReject(code=code, reason=reason)
        await self.stream.write(encode(FrameType.STREAM_REJECT, frame))
        self.stream.finish()


@dataclass(frozen=True, slots=True)
class Incoming:
    """A data stream opened to the agent."""

    stream: Stream
    stream_id: int
    reader: FrameReader

    async def accepted(self) -> None:
        """The agent's STREAM_ACCEPT."""
        await self.reader.expect(FrameType.STREAM_ACCEPT, orp.StreamAccept)

    async def rejected(self) -> orp.StreamReject:
        """The agent's STREAM_REJECT, and nothing behind it."""
        frame = await self.reader.expect(FrameType.STREAM_REJECT, orp.StreamReject)
        assert await self.reader.next_frame() is None
        return frame


class Link:
    """One agent's connection."""

    def __init__(self, connection: Connection, control: Stream) -> None:
        self.connection = connection
        self.control = control
        self._reader = FrameReader(control)

    async def hello(self) -> orp.Hello:
        """The agent's HELLO."""
        return await self._reader.expect(FrameType.HELLO, orp.Hello)

    async def frame(self) -> Frame | None:
        """The next frame on the control stream."""
        return await self._reader.next_frame()

    async def send(self, kind: FrameType, message: Message) -> None:
        """A frame on the control stream."""
        await self.control.write(encode(kind, message))

    async def acknowledge(self, features: Iterable[str] = FEATURES) -> None:
        """HELLO_ACK."""
        await self.send(FrameType.HELLO_ACK, orp.HelloAck(accepted_features=features))

    async def registered(self, *, tenant: str = "acme") -> str:
        """The agent registers a service, and gets its acknowledgement."""
        register = await self._reader.expect(FrameType.REGISTER, orp.Register)
        name = register.service_name
        await self.send(FrameType.REGISTER_ACK, orp.RegisterAck(service_id=f"{tenant}/{name}"))
        return name

    async def deregistered(self) -> str:
        """The agent's DEREGISTER."""
        return (await self._reader.expect(FrameType.DEREGISTER, orp.Register)).service_name

    async def opened(self) -> Opened:
        """The next stream the agent opens."""
        stream = await self.connection.accept_stream()
        frame = await FrameReader(stream).next_frame()
        assert frame is not None
        assert frame.type == FrameType.OPEN_STREAM
        message = message_of(frame, orp.OpenStream)
        return Opened(stream, message.stream_id, message.target_service, message.method)

    async def spliced(self) -> Opened:
        """The next stream the agent opens, ready for its bytes."""
        opened = await self.opened()
        await self.ready(opened.stream_id)
        return opened

    async def ready(self, stream_id: int, peer: str = PROVIDER) -> None:
        """STREAM_READY."""
        frame = orp.StreamReady(stream_id=stream_id, peer_agent_uri=peer)
        await self.send(FrameType.STREAM_READY, frame)

    async def incoming(self, service: str, stream_id: int = 7) -> Incoming:
        """A stream to the agent, of some consumer."""
        stream = await self.connection.open_stream()
        message = orp.IncomingStream(
            target_service=service, source_agent_uri=CONSUMER, stream_id=stream_id
        )
        await stream.write(encode(FrameType.INCOMING_STREAM, message))
        return Incoming(stream, stream_id, FrameReader(stream))

    async def served(self, service: str, stream_id: int = 7) -> Incoming:
        """A stream to the agent that it has accepted, ready for bytes."""
        incoming = await self.incoming(service, stream_id)
        await incoming.accepted()
        await self.ready(stream_id, CONSUMER)
        return incoming


class RelayPeer:
    """Accepts agents' connections."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener

    async def connected(self) -> Link:
        """The next connection, and its control stream."""
        connection = await self.listener.accept()
        return Link(connection, await connection.accept_stream())

    async def accept(self, features: Iterable[str] = FEATURES) -> Link:
        """The next agent, after HELLO and HELLO_ACK."""
        link = await self.connected()
        await link.hello()
        await link.acknowledge(features)
        return link

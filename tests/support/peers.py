"""Agents as raw ORP peers: they send exactly the frames a test tells them to.

network = MemoryNetwork()
agent = await AgentPeer.dial(network.dialer(AGENT_A), listener.address, AGENT_A)
await agent.hello("deregister/1")
await agent.register("echo")
stream = await agent.open("echo", stream_id=7)
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.orp.frame import FrameType, encode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Address, Connection, Dialer, Stream
from outrelay.lib.transport.frames import FrameReader, message_of

AGENT_A = Identity.parse("outrelay://acme/agent/0a0a0a0a-0000-4000-8000-00000000000a")
AGENT_B = Identity.parse("outrelay://acme/agent/0b0b0b0b-0000-4000-8000-00000000000b")
AGENT_C = Identity.parse("outrelay://acme/agent/0c0c0c0c-0000-4000-8000-00000000000c")
STRANGER = Identity.parse("outrelay://globex/agent/0d0d0d0d-0000-4000-8000-00000000000d")

FEATURES = ("deregister/1", "goaway/1", "resume/2")

MessageT = TypeVar("MessageT", bound=Message)


class AgentPeer:
    """One connection of an agent to a relay.

    Args:
        connection: The agent's end of it.
        identity: The agent's, as its certificate has it.
    """

    control: Stream
    frames: FrameReader

    def __init__(self, connection: Connection, identity: Identity) -> None:
        self.connection = connection
        self.identity = identity

    @classmethod
    async def dial(cls, dialer: Dialer, address: Address, identity: Identity) -> AgentPeer:
        """A peer connected to the relay at ``address``, which has said nothing yet."""
        return cls(await dialer.dial(address, roles={Role.RELAY}), identity)

    async def open_control(self) -> None:
        """Open the control stream."""
        self.control = await self.connection.open_stream()
        self.frames = FrameReader(self.control)

    async def hello(
        self, *capabilities: str, uri: str | None = None, instance: bytes = b""
    ) -> orp.HelloAck:
        """Say HELLO and take the answer."""
        await self.open_control()
        hello = orp.Hello(
            protocol_version="orp/1",
            agent_uri=self.identity.uri if uri is None else uri,
            capabilities=capabilities,
            instance=instance,
        )
        await self.send(FrameType.HELLO, hello)
        return await self.expect(FrameType.HELLO_ACK, orp.HelloAck)

    async def send(self, kind: FrameType, message: Message) -> None:
        """Send a control frame."""
        await self.control.write(encode(kind, message))

    async def expect(self, kind: FrameType, message: type[MessageT]) -> MessageT:
        """The next control frame, which is a ``kind``."""
        return await self.frames.expect(kind, message)

    async def register(self, name: str, **fields: str | int) -> orp.RegisterAck:
        """Register a service that the relay takes."""
        await self.ask_to_register(name, **fields)
        return await self.expect(FrameType.REGISTER_ACK, orp.RegisterAck)

    async def ask_to_register(self, name: str, **fields: str | int) -> None:
        """Send REGISTER."""
        message = orp.Register(service_name=name)
        for field, value in fields.items():
            setattr(message, field, value)
        await self.send(FrameType.REGISTER, message)

    async def deregister(self, name: str) -> None:
        """Send DEREGISTER, and return once the relay has taken it."""
        await self.send(FrameType.DEREGISTER, orp.Register(service_name=name))
        await self.ping()

    async def ping(self) -> None:
        """Return once the relay has taken everything sent before."""
        await self.send(FrameType.PING, Empty())
        await self.expect(FrameType.PONG, Empty)

    async def open(self, service: str, *, stream_id: int, method: str = "") -> Stream:
        """A data stream with OPEN_STREAM sent."""
        stream = await self.connection.open_stream()
        message = orp.OpenStream(target_service=service, method=method, stream_id=stream_id)
        await stream.write(encode(FrameType.OPEN_STREAM, message))
        return stream

    async def incoming(self) -> tuple[Stream, orp.IncomingStream]:
        """The next stream the relay opens, and what for; it waits for an answer."""
        stream = await self.connection.accept_stream()
        return stream, await FrameReader(stream).expect(
            FrameType.INCOMING_STREAM, orp.IncomingStream
        )

    async def ready(self) -> orp.StreamReady:
        """The next control frame, which is STREAM_READY, but for other streams' checkpoints."""
        while (frame := await self.frames.next_frame()) is not None:
            if frame.type != FrameType.STREAM_CHECKPOINT:
                assert frame.type == FrameType.STREAM_READY, frame.name
                return message_of(frame, orp.StreamReady)
        raise AssertionError("the control stream has ended")


async def accept(stream: Stream, *, early: bytes = b"") -> None:
    """Accept an incoming stream, with application bytes right behind."""
    await stream.write(encode(FrameType.STREAM_ACCEPT, orp.StreamAccept()) + early)


async def reject(stream: Stream, code: int, reason: str) -> None:
    """Reject an incoming stream."""
    frame = orp.StreamReject(code=code, reason=reason)
    await stream.write(encode(FrameType.STREAM_REJECT, frame))
    stream.finish()


async def rejection(stream: Stream) -> tuple[int, str]:
    """Code and reason of a stream that is refused, and ended behind that."""
    frames = FrameReader(stream)
    message = await frames.expect(FrameType.STREAM_REJECT, orp.StreamReject)
    assert await frames.next_frame() is None
    return message.code, message.reason


async def read_all(stream: Stream) -> bytes:
    """Everything up to the stream's end."""
    data = bytearray()
    while chunk := await stream.read():
        data += chunk
    return bytes(data)

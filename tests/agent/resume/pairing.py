"""Two agents, and between them a relay that a test plays: it splices, pairs halves, and fails.

async with meeting(seen) as meet:
    app, backend = await meet.stream()          # two ends of one stream
    await meet.relay.cut(PROVIDER)              # the provider's connection is gone
    ...                                         # its bytes come all the same
"""

from __future__ import annotations

import asyncio
from asyncio import TaskGroup
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

from google.protobuf.empty_pb2 import Empty

from outrelay.agent import app
from outrelay.agent.options import AgentOptions, Consume, Expose
from outrelay.agent.session.proof import Proof
from outrelay.lib.errors import Closed, ErrorCode, TransportError
from outrelay.lib.identity.uri import Identity
from outrelay.lib.orp.frame import encode
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.tasks import isolate
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.transport.frames import FrameReader, message_of
from outrelay.lib.transport.memory import EXPIRES, MemoryConnection, MemoryNetwork
from outrelay.lib.transport.ways import Carrier, Ways
from outrelay.lib.values import parse_address
from outrelay.relay.splice import Leg, Splice
from tests.agent.place import OPTIONS, RELAY
from tests.agent.tcp import HOST, Backend, Tcp, connect
from tests.support.events import Events

CONSUMER = Identity.parse("outrelay://acme/agent/11111111-0000-4000-8000-000000000001")
PROVIDER = Identity.parse("outrelay://acme/agent/22222222-0000-4000-8000-000000000002")
SERVICE = "db"
RESUMES = ("deregister/1", "goaway/1", "resume/2")


@dataclass(eq=False)
class Attached:
    """One agent's connection."""

    identity: Identity
    connection: MemoryConnection
    control: Stream
    frames: FrameReader

    async def send(self, frame: bytes) -> None:
        """Put a frame on its control stream."""
        with suppress(TransportError):
            await self.control.write(frame)


@dataclass(eq=False)
class Half:
    """A leg that waits for its other one."""

    agent: Attached
    stream: Stream
    resume: orp.StreamResume
    early: bytes


@dataclass(eq=False)
class PairingRelay:
    """What a relay does for streams that outlive their legs, and nothing else.

    Args:
        network: Where it listens.
        group: Owns its tasks.
        features: What it accepts.
    """

    network: MemoryNetwork
    group: TaskGroup
    host: str = HOST
    features: tuple[str, ...] = RESUMES
    agents: dict[Identity, Attached] = field(default_factory=dict)
    halves: dict[int, Half] = field(default_factory=dict)
    splices: dict[int, Splice] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    """Streams whose last checkpoints may still be on their way."""
    said: list[tuple[Identity, int | None]] = field(default_factory=list)
    """Whose checkpoints came, and where they say that its direction has ended."""
    resumed: int = 0
    names: set[str] = field(default_factory=set)
    """What halves have said that their streams lead to."""
    loses_opens: list[ErrorCode] = field(default_factory=list)
    """Codes that the next opens are reset with."""
    cuts_before_ready: bool = False
    """Whether the provider's connection is gone before its STREAM_READY."""
    forgets: bool = False
    """Whether halves are told that the other agent has nothing."""
    deaf: bool = False
    """Whether checkpoints are not passed on."""
    mute: bool = False
    """Whether PINGs get no answer."""
    refuses: orp.StreamReject | None = None
    """What halves are answered, instead of being paired."""
    ends: ErrorCode | None = None
    """The code halves are reset with, instead of being paired."""
    turned_away: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    """Released for each half that was answered so."""

    def listen(self) -> None:
        """Take connections."""
        self.listener = self.network.listen((self.host, 7443), RELAY)
        isolate(self.group, self._accept(), name="relay")

    async def stop(self) -> None:
        """Be gone, as a process that is killed."""
        await self.listener.close()
        for each in [*self.agents.values()]:
            each.connection.sever()

    async def cut(self, identity: Identity) -> None:
        """Lose an agent's connection."""
        if attached := self.agents.get(identity):
            attached.connection.sever()
            await asyncio.sleep(0)

    async def goaway(self, *alternates: str) -> None:
        """Tell everybody to leave."""
        frame = orp.Goaway(reason="drain", alternate_endpoints=alternates)
        for each in [*self.agents.values()]:
            await each.send(encode(FrameType.GOAWAY, frame))

    async def _accept(self) -> None:
        try:
            while True:
                connection = await self.listener.accept()
                isolate(self.group, self._serve(connection), name="relay: agent")
        except Closed:
            pass

    async def _serve(self, connection: MemoryConnection) -> None:
        attached = None
        try:
            control = await connection.accept_stream()
            frames = FrameReader(control)
            await frames.expect(FrameType.HELLO, orp.Hello)
            attached = Attached(connection.peer, connection, control, frames)
            self.agents[connection.peer] = attached
            ack = orp.HelloAck(accepted_features=self.features)
            await control.write(encode(FrameType.HELLO_ACK, ack))
            isolate(self.group, self._streams(attached), name="relay: streams")
            while frame := await frames.next_frame():
                match frame.type:
                    case FrameType.REGISTER:
                        name = message_of(frame, orp.Register).service_name
                        registered = orp.RegisterAck(service_id=f"acme/{name}")
                        await control.write(encode(FrameType.REGISTER_ACK, registered))
                    case FrameType.STREAM_CHECKPOINT:
                        await self._pass_on(attached, message_of(frame, orp.StreamCheckpoint))
                    case FrameType.PING if not self.mute:
                        await control.write(encode(FrameType.PONG, Empty()))
        except TransportError:
            pass
        if attached and self.agents.get(connection.peer) is attached:
            del self.agents[connection.peer]

    async def _pass_on(self, sender: Attached, checkpoint: orp.StreamCheckpoint) -> None:
        has_ended = checkpoint.HasField("final_position")
        self.said.append((sender.identity, checkpoint.final_position if has_ended else None))
        if not self.deaf and checkpoint.stream_id in (self.splices.keys() | self.ended):
            for each in [*self.agents.values()]:
                if each.identity != sender.identity:
                    await each.send(encode(FrameType.STREAM_CHECKPOINT, checkpoint))

    async def _streams(self, attached: Attached) -> None:
        try:
            while True:
                stream = await attached.connection.accept_stream()
                isolate(self.group, self._data(attached, stream), name="relay: stream")
        except Closed:
            pass

    async def _data(self, attached: Attached, stream: Stream) -> None:
        try:
            reader = FrameReader(stream)
            frame = await reader.next_frame()
            assert frame
            if frame.type == FrameType.STREAM_RESUME:
                resume = message_of(frame, orp.StreamResume)
                await self._pair(Half(attached, stream, resume, reader.rest()))
            else:
                await self._open(attached, stream, message_of(frame, orp.OpenStream))
        except TransportError:
            stream.reset(ErrorCode.LEG_LOST)
            stream.stop(ErrorCode.LEG_LOST)

    async def _open(self, consumer: Attached, stream: Stream, wanted: orp.OpenStream) -> None:
        if self.loses_opens:
            code = self.loses_opens.pop()
            stream.reset(code)
            stream.stop(code)
            return
        provider = self.agents[PROVIDER]
        theirs = await provider.connection.open_stream()
        incoming = orp.IncomingStream(
            target_service=wanted.target_service,
            method=wanted.method,
            source_agent_uri=consumer.identity.uri,
            stream_id=wanted.stream_id,
        )
        await theirs.write(encode(FrameType.INCOMING_STREAM, incoming))
        reader = FrameReader(theirs)
        await reader.expect(FrameType.STREAM_ACCEPT, orp.StreamAccept)
        splice = self._splice(
            wanted.stream_id,
            Leg(stream, "consumer"),
            Leg(theirs, "provider", reader.rest()),
        )
        for agent, peer in ((consumer, provider), (provider, consumer)):
            ready = orp.StreamReady(
                stream_id=wanted.stream_id,
                peer_agent_uri=peer.identity.uri,
                peer_features=self.features,
            )
            await agent.send(encode(FrameType.STREAM_READY, ready))
            if self.cuts_before_ready:
                await self.cut(PROVIDER)
        await splice.run()
        self._over(wanted.stream_id, splice)

    async def _pair(self, half: Half) -> None:
        stream_id = half.resume.stream_id
        self.names.add(half.resume.target_service)
        if self.refuses:
            await half.stream.write(encode(FrameType.STREAM_REJECT, self.refuses))
            half.stream.finish()
            self.turned_away.release()
            return
        if self.ends:
            half.stream.reset(self.ends)
            half.stream.stop(self.ends)
            self.turned_away.release()
            return
        if live := self.splices.pop(stream_id, None):
            live.abandon(ErrorCode.LEG_LOST, "superseded")
        other = self.halves.pop(stream_id, None)
        if other is None or other.agent.identity == half.agent.identity:
            self.halves[stream_id] = half
            return
        if self.forgets:
            half.resume.peer_ack_position = other.resume.peer_ack_position = 0
        assert half.resume.peer_agent_uri == other.agent.identity.uri
        assert half.resume.target_service == other.resume.target_service
        assert {half.resume.role, other.resume.role} == {orp.CONSUMER, orp.PROVIDER}
        consumer, provider = (half, other) if half.resume.role == orp.CONSUMER else (other, half)
        splice = self._splice(
            stream_id,
            Leg(consumer.stream, "consumer", consumer.early),
            Leg(provider.stream, "provider", provider.early),
        )
        try:
            await half.stream.write(encode(FrameType.STREAM_RESUME, other.resume))
            await other.stream.write(encode(FrameType.STREAM_RESUME, half.resume))
        except TransportError:
            splice.abandon(ErrorCode.LEG_LOST, "lost again")
        else:
            self.resumed += 1
            await splice.run()
        self._over(stream_id, splice)

    def _splice(self, stream_id: int, consumer: Leg, provider: Leg) -> Splice:
        splice = Splice(consumer, provider, lambda _: None, lambda _: None)
        self.splices[stream_id] = splice
        return splice

    def _over(self, stream_id: int, splice: Splice) -> None:
        if self.splices.get(stream_id) is splice:
            del self.splices[stream_id]
            self.ended.add(stream_id)


def ways(network: MemoryNetwork, identity: Identity) -> Ways:
    """How an agent reaches what is on the network."""
    dialer = network.dialer(identity)
    return Ways({Carrier.QUIC: dialer, Carrier.TCP: dialer})


@dataclass
class Meeting:
    """Two agents and what stands around them."""

    network: MemoryNetwork
    relay: PairingRelay
    seen: Events
    backend: Backend
    group: TaskGroup
    proofs: dict[Identity, Proof]
    """The certificates of both."""
    port: int = 0

    async def stream(self) -> tuple[Tcp, Tcp]:
        """An application, and the backend's connection at the other end of its stream."""
        application = await connect(self.port)
        return application, await self.backend.accept()


@asynccontextmanager
async def meeting(
    seen: Events,
    options: AgentOptions = OPTIONS,
    *,
    features: tuple[str, ...] = RESUMES,
    host: str = HOST,
    method: str = "",
) -> AsyncIterator[Meeting]:
    """A consumer, which calls by ``method``, and a provider that are connected to the relay."""
    network = MemoryNetwork()
    async with TaskGroup() as group:
        relay = PairingRelay(network, group, host, features)
        relay.listen()
        with Backend() as backend:
            provider = replace(
                options, expose=(Expose(service=SERVICE, target=(HOST, backend.port)),)
            )
            mapping = Consume(service=SERVICE, method=method, bind=(HOST, 0))
            consumer = replace(options, consume=(mapping,))
            proofs = {each: Proof(EXPIRES) for each in (PROVIDER, CONSUMER)}
            agents = [
                group.create_task(
                    app.serve(each, who, proofs[who], ways(network, who), asyncio.Event())
                )
                for who, each in ((PROVIDER, provider), (CONSUMER, consumer))
            ]
            line = await seen.wait("listening")
            await seen.wait("ready", count=2)
            meet = Meeting(network, relay, seen, backend, group, proofs)
            meet.port = parse_address(str(line["address"]))[1]
            yield meet
            for each in agents:
                each.cancel()
            await asyncio.wait(agents)
            await relay.stop()

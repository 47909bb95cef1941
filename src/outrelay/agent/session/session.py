"""One connection to a relay, from HELLO to its end.

Words: the *control stream* is the first one of the connection; an *answer* is a frame on it
that somebody waits for. A relay is *plain* when it accepted none of our features.

Invariants: whoever waits for an answer is told when the connection ends. A session that is
*over* takes no new streams; those it carries may go on, and the last one closes it. One that
is *leaving* takes new streams until another session is up.

Source: protocol.md sections 3, 4 and 5.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import Future, TaskGroup
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

from google.protobuf.empty_pb2 import Empty

from outrelay.agent.options import Limits
from outrelay.agent.session.carried import Carried, Ready
from outrelay.agent.session.greeting import DEREGISTER, GOAWAY, RESUME, endpoints_of, greet
from outrelay.agent.session.outgoing import Outgoing, Pulse
from outrelay.lib.errors import (
    Closed,
    ErrorCode,
    ProtocolError,
    RejectCode,
    RemoteProtocolError,
    Reset,
    StreamRejected,
)
from outrelay.lib.observe import logs
from outrelay.lib.orp.types import Frame, FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.service import cause_of
from outrelay.lib.tasks import spawn
from outrelay.lib.transport.carrier import Connection, Stream
from outrelay.lib.transport.frames import FrameReader, FrameWriter, message_of
from outrelay.lib.transport.ways import Carrier, Endpoint
from outrelay.lib.values import parse_address

log = logs.get_logger(__name__)

_Answer = TypeVar("_Answer")

ALTERNATES_MOST = 16
"""Relays that one GOAWAY may name; more are ignored."""

TURN = 64
"""Control frames after which everybody else has a turn."""


class Owner(Protocol):
    """Whose session it is. None of it may wait, but for ``register``."""

    def take(self, session: Session, stream: Stream) -> None:
        """Serve a stream that the relay opened."""

    async def register(self, session: Session) -> None:
        """Register what the agent exposes, and again whenever the relay may have dropped it."""

    def called(self, session: Session, stream_id: int) -> None:
        """The far agent waits for a stream that the session does not carry."""

    def over(self, session: Session) -> None:
        """The session takes no new streams; called at least once, before anybody can notice."""


class Session:
    """A connection whose relay has answered HELLO; make it with ``start``."""

    def __init__(
        self,
        connection: Connection,
        reader: FrameReader,
        writer: FrameWriter,
        features: frozenset[str],
        limits: Limits,
        owner: Owner,
    ) -> None:
        self.connection = connection
        self.since_ms = time.time_ns() // 1_000_000
        self.features = features
        self.endpoints: tuple[Endpoint, ...] = ()
        """Others that may be used, as the relay says."""
        self._reader = reader
        self._writer = writer
        self._limits = limits
        self._owner = owner
        self._outgoing = Outgoing(writer)
        self._pulse = Pulse(self._outgoing, limits.dead)
        self._ended: Closed | None = None
        self._over = False
        self._is_moved = False
        self._news = asyncio.Event()
        self._streams: dict[int, list[Carried]] = {}
        self.alternates: tuple[Endpoint, ...] = ()
        """Relays that this one names instead of itself."""
        self.is_leaving = False
        """Whether another session is wanted instead."""
        self._registering: dict[str, Future[StreamRejected | None]] = {}
        self.registered: set[str] = set()
        """The services that the relay has acknowledged."""
        self.refused: dict[str, str] = {}
        """Why it has not, of those that it refused when it was asked last."""
        self._skipped_some = False

    @classmethod
    async def start(
        cls, connection: Connection, hello: orp.Hello, limits: Limits, owner: Owner
    ) -> Session:
        """Say HELLO on a new connection; it is closed when the relay does not agree.

        Raises:
            Refused: The relay refused us or did not answer.
        """
        reader, writer, ack = await greet(connection, hello, limits.hello)
        session = cls(connection, reader, writer, frozenset(ack.accepted_features), limits, owner)
        session.endpoints = endpoints_of(ack)
        return session

    @property
    def carries(self) -> int:
        """How many streams it carries."""
        return len(self._streams)

    @property
    def rtt(self) -> float | None:
        """Seconds to the relay and back, measured while streams live; None: not yet."""
        return self._pulse.rtt

    @property
    def is_plain(self) -> bool:
        """Whether the relay has none of our features."""
        return not self.features

    @property
    def can_resume(self) -> bool:
        """Whether streams of the relay can outlive their connection."""
        return RESUME in self.features

    async def run(self) -> None:
        """Serve the connection until it ends; cancelled, it closes it."""
        try:
            async with TaskGroup() as group:
                spawn(group, self._control(), name="agent: control stream")
                spawn(group, self._accept(), name="agent: incoming streams")
                if self.can_resume:
                    spawn(group, self._outgoing.run(), name="agent: checkpoints")
                    spawn(group, self._pulse.run(), name="agent: pulse")
                await self._owner.register(self)
        except* Closed as errors:
            self._end(cause_of(errors))
        except* (ProtocolError, Reset) as errors:
            self._end(Closed(ErrorCode.PROTOCOL, str(cause_of(errors))))
        finally:
            self._end(Closed())

    async def until_leaving(self) -> Closed | None:
        """How the connection ended, once it has; None when another one should be made instead."""
        await self._news.wait()
        return self._ended

    async def open_stream(self) -> Stream:
        """A new stream to the relay.

        Raises:
            StreamRejected: The relay lets us open no more.
            Closed: The connection is gone, or a fresh one is needed for new streams.
        """
        try:
            async with asyncio.timeout(self._limits.open):
                return await self.connection.open_stream()
        except TimeoutError:
            if not self.is_plain:
                reason = "the relay lets this agent open no more streams"
                raise StreamRejected(RejectCode.LIMIT, reason) from None
            log.warning("no credit for streams, moving to a fresh connection")
            self.retire()  # a plain relay may never give the credit of rejected streams back
            raise Closed(reason="no credit for streams") from None

    def stream(self, stream_id: int) -> Carried:
        """Carry a stream, until the context that this is ends or lets go of it.

        An agent that uses its own service carries one id twice: both are told.
        """
        is_told = self.connection.tells_codes or not self.can_resume
        say = None if is_told else partial(self._outgoing.end, stream_id)
        place = Carried(partial(self._forget, stream_id), say)
        self._streams.setdefault(stream_id, []).append(place)
        self._pulse.live = True
        if self._is_moved:
            place.move()
        if self._ended:
            place.announce(self._ended)
        return place

    def post(self, checkpoint: orp.StreamCheckpoint) -> None:
        """Send a stream's checkpoint soon; a newer one takes its place."""
        self._outgoing.post(checkpoint)

    def retire(self) -> None:
        """Take no new streams; the connection is closed when the last one has ended."""
        self._over = True
        self._news.set()
        self._owner.over(self)
        self._close_when_unused()

    def leave(self) -> None:
        """Have another session made, with another relay; until then this one goes on."""
        self.is_leaving = True
        self._news.set()

    def move(self) -> None:
        """Streams that can go on in another session are told to."""
        self._is_moved = True
        for carried in [*self._streams.values()]:
            for each in [*carried]:
                each.move()

    async def register(self, service: str, local_address: str) -> None:
        """Offer ``service``.

        Args:
            service: Its name.
            local_address: Its backend, for people who look at the registry.

        Raises:
            StreamRejected: The relay refused.
            TimeoutError: The relay did not answer.
            Closed: The connection is gone.
        """
        answer: Future[StreamRejected | None] = asyncio.get_running_loop().create_future()
        self._registering[service] = answer
        try:
            register = orp.Register(service_name=service, local_addr=local_address)
            await self._writer.send(FrameType.REGISTER, register)
            async with asyncio.timeout(self._limits.register):
                rejected = await answer
        finally:
            del self._registering[service]
        if rejected:
            self.refused[service] = str(rejected)
            raise rejected
        self.refused.pop(service, None)
        self.registered.add(service)

    async def deregister(self, service: str) -> None:
        """Offer ``service`` no longer, where the relay knows how to stop.

        Raises:
            Closed: The connection is gone.
        """
        self.registered.discard(service)
        if DEREGISTER in self.features:
            await self._writer.send(FrameType.DEREGISTER, orp.Register(service_name=service))

    async def _accept(self) -> None:
        while True:
            self._owner.take(self, await self.connection.accept_stream())

    async def _control(self) -> None:
        taken = 0
        while (frame := await self._reader.next_frame()) is not None:
            self._pulse.heard()
            await self._dispatch(frame)
            taken += 1
            if taken % TURN == 0:
                await asyncio.sleep(0)
        raise RemoteProtocolError("the relay ended the control stream")

    async def _dispatch(self, frame: Frame) -> None:
        match frame.type:
            case FrameType.STREAM_READY:
                ready = message_of(frame, orp.StreamReady)
                self._announced(ready.stream_id, _checked(ready))
            case FrameType.ALLOC_GRANTED:
                grant = message_of(frame, orp.AllocGranted)
                reason = "policy requires forward mode, which this agent has not"
                self._announced(grant.stream_id, StreamRejected(RejectCode.UNREACHABLE, reason))
            case FrameType.REGISTER_ACK:
                ack = message_of(frame, orp.RegisterAck)
                self._registered(ack.service_id.partition("/")[2], None)
            case FrameType.REGISTER_NACK:
                nack = message_of(frame, orp.StreamReject)
                self._registered(nack.service_name, StreamRejected(nack.code, nack.reason))
            case FrameType.STREAM_CHECKPOINT if self.can_resume:
                checkpoint = message_of(frame, orp.StreamCheckpoint)
                for each in self._streams.get(checkpoint.stream_id, ()):
                    each.checkpoint(checkpoint)
            case FrameType.STREAM_ENDED if self.can_resume:
                self._ends(message_of(frame, orp.StreamEnded))
            case FrameType.GOAWAY if GOAWAY in self.features:
                self._relay_leaves(message_of(frame, orp.Goaway))
            case FrameType.PONG:
                self._pulse.answered()
            case FrameType.PING:
                await self._writer.send(FrameType.PONG, Empty())
            case _:
                self._skip(frame)

    def _announced(self, stream_id: int, answer: Ready) -> None:
        for each in self._streams.get(stream_id, ()):
            each.announce(answer)

    def _ends(self, ended: orp.StreamEnded) -> None:
        code, carried = ErrorCode.of(ended.code), self._streams.get(ended.stream_id)
        for each in carried or ():
            each.explain(code)
        if not carried and code is ErrorCode.LEG_LOST:
            self._owner.called(self, ended.stream_id)

    def _relay_leaves(self, goaway: orp.Goaway) -> None:
        log.info("the relay leaves", relay=self.connection.peer, reason=goaway.reason)
        for text in goaway.alternate_endpoints[:ALTERNATES_MOST]:
            with suppress(ValueError):
                self.alternates += (Endpoint(Carrier.QUIC, parse_address(text)),)
        self.leave()

    def _registered(self, service: str, answer: StreamRejected | None) -> None:
        if service in self._registering:
            _tell(self._registering[service], answer)

    def _skip(self, frame: Frame) -> None:
        if not self._skipped_some:
            self._skipped_some = True
            log.info("unknown frames are skipped", first=frame.name, relay=self.connection.peer)

    def _forget(self, stream_id: int, released: Carried) -> None:
        carried = self._streams[stream_id]
        carried.remove(released)
        if not carried:
            del self._streams[stream_id]
            self._pulse.live = bool(self._streams)
        self._close_when_unused()

    def _close_when_unused(self) -> None:
        if self._over and not self._streams:
            self.connection.close()

    def _end(self, ended: BaseException) -> None:
        if self._ended:
            return
        assert isinstance(ended, Closed)
        self._ended = ended
        self.connection.close(ended.code, ended.reason)
        for carried in self._streams.values():
            for each in carried:
                each.announce(self._ended)
        self.move()
        self._over = True
        self._news.set()
        self._owner.over(self)


def _checked(ready: orp.StreamReady) -> Ready:
    """What STREAM_READY comes to: a promise of policy's that we cannot keep is a refusal."""
    if ready.p2p_mode != orp.P2PMode.REQUIRED:
        return ready
    reason = "policy requires a direct path, which this agent cannot make"
    return StreamRejected(RejectCode.DENIED, reason)


def _tell(answer: Future[_Answer], value: _Answer) -> None:
    if not answer.done():
        answer.set_result(value)

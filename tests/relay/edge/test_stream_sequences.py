"""Streams in every order of events, with a model of what may come of them.

A script lets agents of two tenants connect, register, open, answer, write, end and vanish.
After it, what each end of each stream got is held against what the other end sent: nothing
arrives that was not sent to it, nothing that is incomplete looks complete, what was ended
well ends well, what its consumer gave up ends at the provider, every refusal has a code; and
when all have gone the relay keeps nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.empty_pb2 import Empty
from hypothesis import given, settings
from hypothesis import strategies as st

from outrelay.lib.errors import (
    Closed,
    ErrorCode,
    RejectCode,
    RemoteProtocolError,
    Reset,
    TransportError,
)
from outrelay.lib.orp.frame import FrameDecoder, FrameType, encode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.policy import Decision
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.transport.frames import FrameReader
from tests.relay.rooms import ALLOW_ALL, Rooms, relay_rooms, rule
from tests.support.events import events
from tests.support.peers import (
    AGENT_A,
    AGENT_B,
    AGENT_C,
    FEATURES,
    STRANGER,
    AgentPeer,
    accept,
    reject,
)
from tests.support.turns import everybody_waits, now, until

T = TypeVar("T")

AGENTS = (AGENT_A, AGENT_B, AGENT_C, STRANGER)
SERVICES = ("echo", "time", "vault")
RULES = (ALLOW_ALL, rule("vault", rule_id="2", decision=Decision.DENY))

MOST_PEERS = 6
TURNS = 25

ENDS = {ErrorCode.CANCELLED, ErrorCode.LEG_LOST, ErrorCode.PROTOCOL}
"""Codes a stream may be reset with, here."""

NONSENSE = (b"\xff" * 20, b"\x40\x20" + bytes(6), encode(FrameType.HELLO, orp.Hello()))
SKIPPED = (b"\x27\xfe" + bytes(6), encode(FrameType.STREAM_ACCEPT, orp.StreamAccept()))


@dataclass(eq=False)
class End:
    """One agent's end of a stream."""

    stream: Stream
    sent: bytearray = field(default_factory=bytearray)
    got: bytearray = field(default_factory=bytearray)
    finished: bool = False  # we ended our direction
    abandoned: bool = False  # we gave up both directions
    ended: bool = False  # the relay ended its direction well
    error: TransportError | None = None  # or otherwise

    async def write(self, data: bytes) -> None:
        if self.finished or self.abandoned:
            return
        with suppress(TransportError):
            await self.stream.write(data)
            self.sent += data

    def finish(self) -> None:
        self.finished = True
        self.stream.finish()

    def abandon(self) -> None:
        self.abandoned = True
        self.stream.reset(ErrorCode.CANCELLED)
        self.stream.stop(ErrorCode.CANCELLED)

    async def take(self) -> None:
        """Read what has come."""
        while not (self.ended or self.error or self.abandoned):
            try:
                data = await now(self.stream.read())
            except TransportError as error:
                self.error = error
                return
            if data is None:
                return
            self.got += data
            self.ended = not data


@dataclass(eq=False)
class Peer:
    """A connection of an agent."""

    agent: AgentPeer
    services: set[str] = field(default_factory=set)
    gone: bool = False

    @property
    def uri(self) -> str:
        return self.agent.identity.uri

    async def say(self, words: bytes) -> None:
        with suppress(TransportError):
            await self.agent.control.write(words)


@dataclass(eq=False)
class Line:
    """A stream as the test sees it."""

    stream_id: int
    service: str
    consumer: Peer
    near: End
    provider: Peer | None = None
    far: End | None = None
    accepted: bool = False

    @property
    def is_unanswered(self) -> bool:
        near = self.near
        return not (self.accepted or near.got or near.ended or near.error)

    def check(self) -> None:
        """Hold what each end got against what the other one sent."""
        if self.near.abandoned or self.consumer.gone:
            assert self.far is None or self._is_far_over, "given up, and its provider knows nothing"
        if not self.accepted or self.far is None:
            self._check_refused()
            return
        for source, sink in ((self.near, self.far), (self.far, self.near)):
            _check_error(sink)
            assert source.sent.startswith(sink.got)
            if sink.ended:
                assert source.finished, "ended well, but its source has not ended"
                assert sink.got == source.sent, "ended well, but not whole"
            elif source.finished and not self._is_broken:
                raise AssertionError("its source has ended, and it has not")

    @property
    def _is_far_over(self) -> bool:
        assert self.provider is not None
        assert self.far is not None
        far = self.far
        return self.provider.gone or far.abandoned or far.ended or far.error is not None

    @property
    def _is_broken(self) -> bool:
        """Whether anybody gave up, or is gone."""
        assert self.provider is not None
        assert self.far is not None
        parts = (self.near.abandoned, self.far.abandoned, self.consumer.gone, self.provider.gone)
        return any(parts)

    def _check_refused(self) -> None:
        """Nothing came but, perhaps, a refusal."""
        assert not isinstance(self.near.error, Reset)
        if not self.near.got:
            return
        decoder = FrameDecoder()
        decoder.receive_data(bytes(self.near.got))
        frame = decoder.next_frame()
        decoder.end()
        assert frame is not None
        assert frame.type == FrameType.STREAM_REJECT
        assert orp.StreamReject.FromString(frame.payload).code in list(RejectCode)


def _check_error(end: End) -> None:
    if isinstance(end.error, Reset):
        assert end.error.code in ENDS


class Script:
    """Plays one script on a relay; see the module.

    A step that finds nobody to take it is none.
    """

    def __init__(self, relay: Rooms) -> None:
        self.lines: list[Line] = []
        self._relay = relay
        self._peers: list[Peer] = []
        self._asked: list[Line] = []  # whose provider has yet to answer
        self._steps: list[Callable[[int, int], Awaitable[None]]] = [
            *[self._open] * 4,
            *[self._accept] * 4,
            *[self._write] * 4,
            *[self._finish] * 2,
            *[self._register] * 2,
            *(self._abandon, self._abandon_unanswered, self._abandon_as_it_is_accepted),
            *(self._reject, self._answer_nonsense, self._say_nonsense),
            *(self._connect, self._vanish, self._deregister),
        ]

    async def play(self, steps: list[tuple[int, int, int]]) -> None:
        """Begin with two agents of a tenant that offer each other services, and do the steps."""
        for agent in range(2):
            await self._connect(agent, 1)
            for service in range(len(SERVICES)):
                await self._register(agent, service)
        for step, one, other in steps:
            await self._steps[step % len(self._steps)](one, other)
            await everybody_waits(TURNS)
            await self._look()
        for line in self.lines:
            line.check()

    def end(self) -> None:
        """Have everybody leave."""
        for peer in self._peers:
            peer.agent.connection.close()

    # ---- steps -----------------------------------------------------------------------------

    async def _connect(self, one: int, other: int) -> None:
        if len(self._peers) < MOST_PEERS:
            features = FEATURES if other % 3 else ()
            self._peers.append(Peer(await self._relay.agent(AGENTS[one % len(AGENTS)], *features)))

    async def _register(self, one: int, other: int) -> None:
        if peer := self._peer(one):
            name = SERVICES[other % len(SERVICES)]
            await peer.say(encode(FrameType.REGISTER, orp.Register(service_name=name)))
            peer.services.add(name)

    async def _deregister(self, one: int, other: int) -> None:
        if peer := self._peer(one):
            name = SERVICES[other % len(SERVICES)]
            await peer.say(encode(FrameType.DEREGISTER, orp.Register(service_name=name)))
            peer.services.discard(name)

    async def _open(self, one: int, other: int) -> None:
        peer = self._peer(one)
        if peer is None:
            return
        service, stream_id = SERVICES[other % len(SERVICES)], 1 + other % 5
        with suppress(Closed):
            near = End(await peer.agent.open(service, stream_id=stream_id))
            self.lines.append(Line(stream_id, service, peer, near))
            if other % 2:
                await near.write(b"early %d;" % len(self.lines))

    async def _accept(self, one: int, other: int) -> None:
        if line := self._answering(one):
            assert line.far is not None
            early = b"welcome %d;" % other if other % 2 else b""
            with suppress(TransportError):
                await accept(line.far.stream, early=early)
                line.far.sent += early
                line.accepted = True

    async def _reject(self, one: int, other: int) -> None:
        if line := self._answering(one):
            assert line.far is not None
            with suppress(TransportError):
                await reject(line.far.stream, (400, 404, 503, 7)[other % 4], "no" * (other % 3))

    async def _answer_nonsense(self, one: int, other: int) -> None:
        if line := self._answering(one):
            assert line.far is not None
            words = (b"\xff" * 9, encode(FrameType.PING, Empty()))[other % 2]
            with suppress(TransportError):
                await line.far.stream.write(words)
            line.far.abandon()

    async def _write(self, one: int, other: int) -> None:
        if end := self._end(one, other):
            await end.write(b"%d from %d;" % (other, one))

    async def _finish(self, one: int, other: int) -> None:
        if end := self._end(one, other):
            end.finish()

    async def _abandon(self, one: int, other: int) -> None:
        if end := self._end(one, other):
            end.abandon()

    async def _abandon_unanswered(self, one: int, _other: int) -> None:
        if self._asked:
            self._asked[one % len(self._asked)].near.abandon()

    async def _abandon_as_it_is_accepted(self, one: int, other: int) -> None:
        """The relay sees both at one time."""
        await self._abandon_unanswered(one, other)
        await self._accept(one, other)

    async def _vanish(self, one: int, other: int) -> None:
        if peer := self._peer(one):
            self._gone(peer)
            if other % 2:
                peer.agent.connection.close(ErrorCode.NONE, "bye")
            else:
                peer.agent.connection.sever()  # type: ignore[attr-defined]

    async def _say_nonsense(self, one: int, other: int) -> None:
        if peer := self._peer(one):
            await peer.say((SKIPPED * 3 + NONSENSE)[other % 9])

    # ---- who and what ----------------------------------------------------------------------

    def _peer(self, number: int) -> Peer | None:
        return self._peers[number % len(self._peers)] if self._peers else None

    def _gone(self, peer: Peer) -> None:
        peer.gone = True
        self._peers.remove(peer)

    def _answering(self, number: int) -> Line | None:
        """A stream that gets its provider's answer now."""
        return self._asked.pop(number % len(self._asked)) if self._asked else None

    def _end(self, one: int, other: int) -> End | None:
        """An end of a stream; a provider's only once it has accepted."""
        if not self.lines:
            return None
        line = self.lines[-1 - one % len(self.lines)]
        return line.far if other % 2 and line.accepted else line.near

    async def _look(self) -> None:
        """Take what has come to everybody."""
        for line in self.lines:
            await line.near.take()
        for peer in list(self._peers):
            try:
                await self._look_at(peer)
            except Closed:
                self._gone(peer)
        for line in self.lines:
            await line.near.take()
            if line.far is not None:
                await line.far.take()

    async def _look_at(self, peer: Peer) -> None:
        while (frame := await now(peer.agent.frames.next_frame())) is not None:
            assert frame.type in {FrameType.REGISTER_ACK, FrameType.STREAM_READY}
        while (stream := await now(peer.agent.connection.accept_stream())) is not None:
            with suppress(Reset, RemoteProtocolError):
                frames = FrameReader(stream)
                incoming = await frames.expect(FrameType.INCOMING_STREAM, orp.IncomingStream)
                self._asked.append(self._line_of(peer, stream, incoming))

    def _line_of(self, peer: Peer, stream: Stream, incoming: orp.IncomingStream) -> Line:
        """The stream that a provider is asked to serve, which must be one it may serve.

        Another one may have been asked before, and not have served it.
        """
        asked_for = (incoming.stream_id, incoming.target_service, incoming.source_agent_uri)
        line = next(
            line
            for line in reversed(self.lines)
            if (line.stream_id, line.service, line.consumer.uri) == asked_for and line.is_unanswered
        )
        assert line.service in peer.services
        assert line.service != "vault"
        assert line.consumer.agent.identity.realm == peer.agent.identity.realm
        assert line.provider is not peer
        if line in self._asked:
            self._asked.remove(line)
        line.provider, line.far = peer, End(stream)
        return line


async def play(steps: list[tuple[int, int, int]]) -> None:
    """Play a script, then see that nothing is left of it."""
    async with relay_rooms(rules=RULES) as relay:
        before = asyncio.all_tasks()
        script = Script(relay)
        await script.play(steps)
        sessions = list(relay.roster)
        script.end()
        await until(lambda: not list(relay.roster) and len(relay.pairs) == 0)
        await until(lambda: asyncio.all_tasks() == before)

        assert relay.directory._attached == {}
        assert relay.edge._connections == set()
        quotas = relay.quotas
        assert len(quotas.streams) == len(quotas.opening) == len(quotas.services) == 0
        assert [session.serving for session in sessions] == [0] * len(sessions)
        assert relay.metric("outrelay_streams_open") == 0
        assert relay.metric("outrelay_connections", role="agent", carrier="memory") == 0


numbers = st.integers(0, 10_000)


@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=30, max_size=80))
@settings(max_examples=150)
def test_streams_in_every_order(steps: list[tuple[int, int, int]]) -> None:
    with events() as seen:
        asyncio.run(play(steps))

    assert seen.of("task failed") == []

"""Relays that say anything in any order: what reaches an application was sent to it.

A script plays a relay, the applications and the backends of one agent, on real sockets.
After it, what each of them got is held against what was sent to it: before STREAM_READY
nothing, a refusal never, and nothing that is incomplete looks complete; and when the agent
is stopped nothing is left of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from google.protobuf.empty_pb2 import Empty
from hypothesis import given, settings
from hypothesis import strategies as st

from outrelay.agent.session import uplink
from outrelay.lib.errors import Closed, ErrorCode, Reset, TransportError
from outrelay.lib.orp.frame import FrameDecoder, FrameType, encode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.transport.frames import FrameReader
from tests.agent.place import Agent, Place
from tests.agent.tcp import Backend, Tcp
from tests.support.events import Events, events
from tests.support.relay_peer import Link
from tests.support.turns import everybody_waits, now

T = TypeVar("T")

CONSUMED, EXPOSED = "db", "files"
MOST_APPS = 6
TURNS = 25

REJECT = encode(FrameType.STREAM_REJECT, orp.StreamReject(code=403, reason="no"))
HARMLESS = (
    encode(FrameType.PING, Empty()),
    encode(FrameType.PONG, Empty()),
    encode(FrameType.GOAWAY, orp.Goaway()),
    encode(FrameType.REGISTER_ACK, orp.RegisterAck(service_id="acme/files")),
    encode(FrameType.REGISTER_NACK, orp.StreamReject(code=403, service_name="files")),
    encode(FrameType.HELLO_ACK, orp.HelloAck()),
    encode(FrameType.STREAM_READY, orp.StreamReady(stream_id=999)),
    encode(FrameType.OPEN_STREAM, orp.OpenStream(target_service="files", stream_id=1)),
    b"\x27\xfe" + bytes(6),
)
HARMFUL = (b"\xff" * 20, b"\x20\x01\xff\xff\xff\xff\xff\xff", b"\x21\x52\0\0\0\0\0\x01\xff")
OPENINGS = (b"\xff" * 9, encode(FrameType.PING, Empty()), REJECT, b"\x20\x11\0\0\0\0\0\x09half")


@dataclass(eq=False)
class Local:
    """An application, or a backend's connection."""

    tcp: Tcp
    sent: bytearray = field(default_factory=bytearray)
    got: bytearray = field(default_factory=bytearray)
    finished: bool = False  # it ended its direction
    left: bool = False  # or left with an RST
    ended: bool = False  # the agent ended its direction well
    reset: bool = False  # or otherwise

    async def take(self) -> None:
        """Read what has come."""
        loop = asyncio.get_running_loop()
        while not (self.ended or self.reset or self.left):
            try:
                data = await now(loop.sock_recv(self.tcp.sock, 65536))
            except OSError:
                self.reset = True
                return
            if data is None:
                return
            self.got += data
            self.ended = not data

    async def write(self, data: bytes) -> None:
        if not (self.finished or self.left or self.reset):
            with suppress(OSError):
                await self.tcp.send(data)
                self.sent += data

    def end(self) -> None:
        with suppress(OSError):
            self.tcp.end()
            self.finished = True

    def leave(self) -> None:
        self.left = True
        self.tcp.reset()


@dataclass(eq=False)
class Remote:
    """The relay's end of a stream."""

    link: Link
    stream: Stream
    stream_id: int
    is_incoming: bool
    sent: bytearray = field(default_factory=bytearray)
    got: bytearray = field(default_factory=bytearray)
    ready: bool = False  # STREAM_READY was sent, and was not too late
    finished: bool = False  # we ended our direction
    ended: bool = False  # the agent ended its direction well
    over: bool = False  # or otherwise, or we gave up

    async def write(self, data: bytes) -> None:
        if not self.finished:
            with suppress(TransportError):
                await self.stream.write(data)
                self.sent += data

    def finish(self) -> None:
        self.finished = True
        self.stream.finish()

    def abandon(self) -> None:
        self.over = True
        self.stream.reset(ErrorCode.CANCELLED)
        self.stream.stop(ErrorCode.CANCELLED)

    async def take(self) -> None:
        while not (self.over or self.ended):
            try:
                data = await now(self.stream.read())
            except TransportError:
                self.over = True
                return
            if data is None:
                return
            self.got += data
            self.ended = not data

    @property
    def is_refused(self) -> bool:
        """Whether it was a refusal, and nothing else, before it was announced."""
        is_over = self.finished and not self.ready
        return is_over and self.sent == REJECT and not self.is_incoming

    def application_bytes(self) -> bytes | None:
        """What the agent sent behind its frames; None: it refused the stream."""
        if not self.is_incoming:
            return bytes(self.got)
        decoder = FrameDecoder()
        decoder.receive_data(bytes(self.got))
        frame = decoder.next_frame()
        if frame is None or frame.type == FrameType.STREAM_REJECT:
            decoder.end()
            return None
        assert frame.type == FrameType.STREAM_ACCEPT
        return decoder.rest()


class Script:
    """Plays one script; a step that finds nobody to take it is none."""

    def __init__(self, place: Place, agent: Agent, backend: Backend, stack: AsyncExitStack) -> None:
        self.apps: list[Local] = []
        self.backends: list[Local] = []
        self.remotes: list[Remote] = []
        self._place = place
        self._agent = agent
        self._backend = backend
        self._stack = stack
        self._link: Link
        self._steps: list[Callable[[int, int], Awaitable[None]]] = [
            *[self._call] * 3,
            *[self._announce] * 4,
            *[self._relay_writes] * 4,
            *[self._app_writes] * 2,
            *[self._open] * 3,
            *(self._relay_finishes, self._app_ends, self._refuse, self._say),
            *(self._open_nonsense, self._abandon, self._app_leaves, self._harm),
        ]

    async def play(self, steps: list[tuple[int, int, int]]) -> None:
        await self._accept()
        for step, one, other in steps:
            await self._steps[step % len(self._steps)](one, other)
            await everybody_waits(TURNS)
            await self._look()
        self._check()

    # ---- steps -----------------------------------------------------------------------------

    async def _accept(self) -> None:
        self._link = await self._place.relay.accept()

    async def _call(self, _one: int, _other: int) -> None:
        if len(self.apps) < MOST_APPS:
            tcp = self._stack.enter_context(await self._agent.app(CONSUMED))
            self.apps.append(Local(tcp))

    async def _announce(self, one: int, _other: int) -> None:
        remote = self._remote(one)
        if remote and remote.link is self._link:
            with suppress(TransportError):
                await remote.link.ready(remote.stream_id)
                for each in self.remotes:  # whoever it may be taken for
                    if each.stream_id == remote.stream_id and each.link is remote.link:
                        each.ready = not each.is_refused

    async def _relay_writes(self, one: int, other: int) -> None:
        if remote := self._remote(one):
            await remote.write(b"%d.%d of %d;" % (one, other, self.remotes.index(remote)))

    async def _relay_finishes(self, one: int, _other: int) -> None:
        if remote := self._remote(one):
            remote.finish()

    async def _refuse(self, one: int, other: int) -> None:
        if remote := self._remote(one):
            await remote.write(REJECT * (1 + other % 2))
            remote.finish()

    async def _abandon(self, one: int, _other: int) -> None:
        if remote := self._remote(one):
            remote.abandon()

    async def _app_writes(self, one: int, other: int) -> None:
        if local := self._local(one):
            await local.write(b"%d says %d;" % (one, other))

    async def _app_ends(self, one: int, _other: int) -> None:
        if local := self._local(one):
            local.end()

    async def _app_leaves(self, one: int, _other: int) -> None:
        if local := self._local(one):
            local.leave()

    async def _open(self, _one: int, other: int) -> None:
        service = EXPOSED if other % 4 else "unheard-of"
        with suppress(TransportError):
            incoming = await self._link.incoming(service, stream_id=1 + other % 3)
            remote = Remote(self._link, incoming.stream, incoming.stream_id, is_incoming=True)
            self.remotes.append(remote)

    async def _open_nonsense(self, one: int, other: int) -> None:
        with suppress(TransportError):
            stream = await self._link.connection.open_stream()
            await stream.write(OPENINGS[other % len(OPENINGS)])
            if one % 2:
                stream.finish()

    async def _say(self, _one: int, other: int) -> None:
        with suppress(TransportError):
            await self._link.control.write(HARMLESS[other % len(HARMLESS)])

    async def _harm(self, one: int, other: int) -> None:
        """What ends the connection; the agent makes another one."""
        match one % 4:
            case 0:
                self._link.connection.close(ErrorCode.DRAIN, "restart")
            case 1:
                self._link.control.finish()
            case _:
                with suppress(TransportError):
                    await self._link.control.write(HARMFUL[other % len(HARMFUL)])
        await self._accept()

    # ---- who and what ----------------------------------------------------------------------

    def _remote(self, number: int) -> Remote | None:
        return self.remotes[-1 - number % len(self.remotes)] if self.remotes else None

    def _local(self, number: int) -> Local | None:
        both = self.apps + self.backends
        return both[-1 - number % len(both)] if both else None

    async def _look(self) -> None:
        """Take what has come to everybody."""
        with suppress(Closed):
            while (stream := await now(self._link.connection.accept_stream())) is not None:
                await self._opened(stream)
        loop = asyncio.get_running_loop()
        while (accepted := await now(loop.sock_accept(self._backend.sock))) is not None:
            accepted[0].setblocking(False)
            self.backends.append(Local(self._stack.enter_context(Tcp(accepted[0]))))
        for remote in self.remotes:
            await remote.take()
        for local in self.apps + self.backends:
            await local.take()

    async def _opened(self, stream: Stream) -> None:
        with suppress(Reset):
            message = await FrameReader(stream).expect(FrameType.OPEN_STREAM, orp.OpenStream)
            assert message.target_service == CONSUMED
            self.remotes.append(Remote(self._link, stream, message.stream_id, is_incoming=False))

    # ---- what is true ----------------------------------------------------------------------

    def _check(self) -> None:
        opened = [remote for remote in self.remotes if not remote.is_incoming]
        incoming = [remote for remote in self.remotes if remote.is_incoming]
        assert len(self.backends) <= len(incoming)
        for locals_, remotes in ((self.apps, opened), (self.backends, incoming)):
            for local in locals_:
                _check_local(local, [each for each in remotes if each.ready])
            for remote in remotes:
                _check_remote(remote, locals_)


def _check_local(local: Local, announced: list[Remote]) -> None:
    """What a local end got is what was sent on one stream that was announced."""
    if local.got:
        assert any(remote.sent.startswith(local.got) for remote in announced)
    if local.ended:
        assert any(remote.finished and remote.sent == local.got for remote in announced)


def _check_remote(remote: Remote, locals_: list[Local]) -> None:
    """What a stream brought is what one local end sent, and not before it was announced."""
    data = remote.application_bytes()
    if data is None:
        return
    assert remote.ready or not data
    assert not data or any(local.sent.startswith(data) for local in locals_)
    if remote.ended:
        assert any(local.finished and local.sent == data for local in locals_)


async def play(seen: Events, steps: list[tuple[int, int, int]]) -> None:
    """Play a script, then see that nothing is left of it."""
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        backend = stack.enter_context(Backend())
        place = Place(seen)
        agent = await stack.enter_async_context(
            place.agent(consume=[CONSUMED], expose={EXPOSED: backend.port})
        )
        await Script(place, agent, backend, stack).play(steps)
    assert asyncio.all_tasks() == before


numbers = st.integers(0, 10_000)


@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=20, max_size=60))
@settings(max_examples=100)
def test_a_relay_that_says_anything(steps: list[tuple[int, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch, events() as seen:
        patch.setattr(uplink, "STEADY", 0.0)  # reconnects at once, however often
        asyncio.run(play(seen, steps))

    assert seen.of("task failed") == []

"""Peers of another implementation: ORP/1 with none of our features, in bytes of their own.

Nothing here comes from our codec or our messages: the header of 8 bytes is packed and the
fields of protobuf are encoded below, so that what both sides of ours might get wrong alike
is seen. Carriers are ours; a *plain* peer differs in what it says on them. Over TCP it knows
nothing of notes either (``without_notes``): a reset has no code, and ends both directions.

    async with PlainRelay.at(("127.0.0.1", 0), credentials, trust) as relay:
        ...                             # agents of ours connect, register, call each other
        relay.heard[0]                  # what the first of them said on its control stream

    async with PlainAgent.at(address, credentials, trust) as agent:
        await agent.register("files")

Source: protocol.md sections 2 to 6, the notes on plain peers.
"""

from __future__ import annotations

import asyncio
import struct
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from outrelay.lib.errors import Closed, ErrorCode, Reset, TransportError
from outrelay.lib.identity.certs import Credentials, Trust
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.carrier import Address, Connection, Listener, Stream
from outrelay.lib.transport.quic import QuicEndpoint
from outrelay.lib.transport.quic.engines import EngineChoice
from outrelay.lib.transport.tcp import pulse, yamux
from outrelay.lib.transport.tcp.dialer import TcpDialer
from outrelay.lib.transport.tcp.listener import TcpListener
from outrelay.lib.transport.tcp.yamux_frames import GO_AWAY, NORMAL, SESSION, header

HELLO, HELLO_ACK, REGISTER, REGISTER_ACK = 0x001, 0x002, 0x003, 0x004
OPEN_STREAM, INCOMING_STREAM, STREAM_ACCEPT, STREAM_REJECT = 0x010, 0x011, 0x012, 0x013
PING, PONG, STREAM_READY = 0x020, 0x021, 0x152

Value = int | str | bytes


# ---- the wire ------------------------------------------------------------------------------


def frame(kind: int, fields: Mapping[int, Value] | None = None, *, odd: bool = False) -> bytes:
    """A frame.

    Args:
        kind: Its type.
        fields: Of its message, by number; what is zero or empty is left out, as proto3 has it.
        odd: Set the reserved bits and the flags, which receivers ignore.
    """
    payload = b"".join(_field(number, value) for number, value in (fields or {}).items() if value)
    reserved, flags = (3, 0xFFFF) if odd else (0, 0)
    return struct.pack(">HHI", 1 << 13 | reserved << 11 | kind, flags, len(payload)) + payload


def _field(number: int, value: Value) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


@dataclass(frozen=True, slots=True)
class Said:
    """A frame that came: its type, and the fields of its message."""

    kind: int
    fields: Mapping[int, list[int | bytes]]

    def text(self, number: int) -> str:
        """A string."""
        value = self.fields.get(number, [b""])[-1]
        assert isinstance(value, bytes)
        return value.decode()

    def number(self, number: int) -> int:
        """An integer."""
        value = self.fields.get(number, [0])[-1]
        assert isinstance(value, int)
        return value


def _parse(payload: bytes) -> dict[int, list[int | bytes]]:
    fields: dict[int, list[int | bytes]] = {}
    data = iter(payload)
    while (key := _read_varint(data)) is not None:
        value = _read_varint(data)
        assert value is not None
        assert key & 7 in {0, 2}
        is_number = key & 7 == 0
        fields.setdefault(key >> 3, []).append(
            value if is_number else bytes(next(data) for _ in range(value))
        )
    return fields


def _read_varint(data: Iterator[int]) -> int | None:
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value
    assert not shift, "a number cut short"
    return None


class Frames:
    """Takes frames from a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._data = b""

    async def next(self) -> Said | None:
        """The next frame; None at the end of the stream."""
        while len(self._data) < 8 or len(self._data) < 8 + self._length():
            data = await self._stream.read()
            if not data:
                assert not self._data, "a frame cut short"
                return None
            self._data += data
        first, _, length = struct.unpack_from(">HHI", self._data)
        assert first >> 13 == 1
        said = Said(first & 0x7FF, _parse(self._data[8 : 8 + length]))
        self._data = self._data[8 + length :]
        return said

    async def expect(self, kind: int) -> Said:
        """The next frame, which is a ``kind``: a plain peer takes whatever comes for it."""
        said = await self.next()
        assert said is not None
        assert said.kind == kind, f"{said.kind:#05x} came for {kind:#05x}"
        return said

    def rest(self) -> bytes:
        """What came behind the frames taken so far."""
        data, self._data = self._data, b""
        return data

    def _length(self) -> int:
        return int.from_bytes(self._data[4:8], "big")


class _WithoutNotes:
    """Has yamux's sessions of this process be as others make them, for the ``with``.

    Several may overlap, and end in any order.
    """

    def __init__(self) -> None:
        self._users = 0
        self._patches = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if not self._users:
            gone = header(GO_AWAY, 0, SESSION, NORMAL)
            self._patches.enter_context(patch.object(pulse, "HELLO", 0))
            self._patches.enter_context(patch.object(yamux, "HELLO", -1))
            self._patches.enter_context(patch.object(yamux, "farewell", lambda *_: gone))
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._patches.close()


without_notes = _WithoutNotes()


async def pass_on(data: bytes, source: Stream, sink: Stream) -> None:
    """Copy one direction to its end, ``data`` first."""
    try:
        await sink.write(data)
        while data := await source.read():
            await sink.write(data)
        sink.finish()
    except Reset as reset:
        sink.reset(reset.code)
        source.stop(reset.code)
    except Closed:
        sink.reset(ErrorCode.CANCELLED)


# ---- a relay -------------------------------------------------------------------------------


@dataclass(eq=False)
class PlainLink:
    """An agent's connection to a plain relay."""

    connection: Connection
    control: Stream
    uri: str
    heard: list[Said] = field(default_factory=list)
    """What it said on its control stream."""


class PlainRelay:
    """A relay without features, policy or controller.

    It answers HELLO with an empty HELLO_ACK, and refuses a call by STREAM_REJECT without
    reading what the consumer may send. When a connection of an agent ends it drops whatever
    that agent has registered, also by a newer one.

    Attributes tests set:
        deaf_to: Services whose REGISTER it refuses: by silence.
        announces: Whether it sends STREAM_READY.
        keeps_ids: Whether providers hear the consumer's stream id, or 0.
        early: What consumers get ahead of STREAM_READY.
        ready: STREAM_READY waits for this event.
    """

    def __init__(self, listener: Listener) -> None:
        self.deaf_to: set[str] = set()
        self.announces = True
        self.keeps_ids = True
        self.early = b""
        self.ready = asyncio.Event()
        self.ready.set()
        self.links: list[PlainLink] = []
        """Every connection so far."""
        self._listener = listener
        self._providers: dict[str, PlainLink] = {}
        self._changed = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def at(
        cls, address: Address, credentials: Credentials, trust: Trust, *, carrier: str = "quic"
    ) -> AsyncIterator[PlainRelay]:
        """A relay that listens, for the length of the ``with``."""
        kind = TcpListener if carrier == "tcp" else QuicEndpoint
        with without_notes():
            engine: Any = {} if carrier == "tcp" else {"engine": EngineChoice.AIOQUIC}
            listener = await kind.bind(
                address, credentials=credentials, trust=trust, accept_roles={Role.AGENT}, **engine
            )
            relay = cls(listener)
            async with TaskGroup() as group:
                serving = group.create_task(relay._run())
                yield relay
                serving.cancel()
            await listener.close()

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._listener.address

    @property
    def heard(self) -> list[list[int]]:
        """The types of frames each connection has brought on its control stream."""
        return [[said.kind for said in link.heard] for link in self.links]

    async def until_heard(self, kind: int, times: int = 1) -> None:
        """Return once all connections together have said so often a ``kind``."""
        while sum(kinds.count(kind) for kinds in self.heard) < times:
            self._changed.clear()
            await self._changed.wait()

    async def _run(self) -> None:
        async with TaskGroup() as group:
            while True:
                group.create_task(self._serve(await self._listener.accept()))

    async def _serve(self, connection: Connection) -> None:
        with suppress(TransportError):
            link, frames = await self._greet(connection)
            async with TaskGroup() as group:
                group.create_task(self._listen(link, frames))
                while True:
                    try:
                        stream = await connection.accept_stream()
                    except Closed:
                        break
                    group.create_task(self._open(link, stream))
            self._forget(link.uri)

    def _forget(self, uri: str) -> None:
        for service, provider in list(self._providers.items()):
            if provider.uri == uri:
                del self._providers[service]

    async def _greet(self, connection: Connection) -> tuple[PlainLink, Frames]:
        control = await connection.accept_stream()
        frames = Frames(control)
        hello = await frames.expect(HELLO)
        assert hello.text(1) == "orp/1"
        link = PlainLink(connection, control, hello.text(2), [hello])
        self.links.append(link)
        self._changed.set()
        await control.write(frame(HELLO_ACK))
        return link, frames

    async def _listen(self, link: PlainLink, frames: Frames) -> None:
        with suppress(TransportError):
            while said := await frames.next():
                link.heard.append(said)
                self._changed.set()
                if said.kind == REGISTER and said.text(1) not in self.deaf_to:
                    self._providers[said.text(1)] = link
                    tenant = link.uri.split("/")[2]
                    await link.control.write(frame(REGISTER_ACK, {1: f"{tenant}/{said.text(1)}"}))

    async def _open(self, consumer: PlainLink, stream: Stream) -> None:
        with suppress(TransportError):  # of agents that leave
            await self._splice(consumer, stream)

    async def _splice(self, consumer: PlainLink, stream: Stream) -> None:
        frames = Frames(stream)
        call = await frames.expect(OPEN_STREAM)
        provider = self._providers.get(call.text(1))
        if provider is None:
            await self._refuse(stream, 404, f"no provider for {call.text(1)}")
            return
        onward = await provider.connection.open_stream()
        stream_id = call.number(3) if self.keeps_ids else 0
        asked: dict[int, Value] = {1: call.text(1), 2: call.text(2), 3: consumer.uri, 4: stream_id}
        await onward.write(frame(INCOMING_STREAM, asked))
        answers = Frames(onward)
        answer = await answers.next()
        assert answer is not None
        if answer.kind == STREAM_REJECT:
            await self._refuse(stream, answer.number(1), answer.text(2))
            return
        assert answer.kind == STREAM_ACCEPT
        await stream.write(self.early)
        await self.ready.wait()
        if self.announces:
            await consumer.control.write(frame(STREAM_READY, {1: call.number(3)}))
            if stream_id:
                await provider.control.write(frame(STREAM_READY, {1: stream_id}))
        async with TaskGroup() as group:
            group.create_task(pass_on(frames.rest(), stream, onward))
            group.create_task(pass_on(answers.rest(), onward, stream))

    async def _refuse(self, stream: Stream, code: int, reason: str) -> None:
        await stream.write(frame(STREAM_REJECT, {1: code, 2: reason}))
        stream.finish()


# ---- an agent ------------------------------------------------------------------------------


class PlainAgent:
    """An agent without features; each method does one thing on the wire.

    While it waits for an answer it takes the next control frame for it, whatever that is.

    Args:
        connection: To the relay.
        control: Its first stream.
    """

    def __init__(self, connection: Connection, control: Stream) -> None:
        self.connection = connection
        self.control = control
        self.frames = Frames(control)

    @classmethod
    @asynccontextmanager
    async def at(
        cls,
        relay: Address,
        credentials: Credentials,
        trust: Trust,
        *,
        odd: bool = False,
        carrier: str = "quic",
    ) -> AsyncIterator[PlainAgent]:
        """An agent whose HELLO has been answered, connected for the length of the ``with``.

        Args:
            relay: Where the relay is.
            credentials: The agent's.
            trust: Whom the relay's certificate must come from.
            odd: Set bits that mean nothing.
            carrier: What it speaks.
        """
        async with _connected(relay, credentials, trust, carrier) as connection:
            agent = cls(connection, await connection.open_stream())
            hello = {1: "orp/1", 2: credentials.identity.uri}
            await agent.control.write(frame(HELLO, hello, odd=odd))
            ack = await agent.frames.expect(HELLO_ACK)
            assert 3 not in ack.fields, "features nobody offered"
            yield agent

    async def register(self, service: str, *, odd: bool = False) -> None:
        """REGISTER, and the next frame is its acknowledgement."""
        await self.control.write(frame(REGISTER, {1: service, 2: "127.0.0.1:1"}, odd=odd))
        ack = await self.frames.expect(REGISTER_ACK)
        assert ack.text(1).endswith(f"/{service}")

    async def pings(self) -> None:
        """PING, and the next frame is PONG."""
        await self.control.write(frame(PING))
        await self.frames.expect(PONG)

    async def open(self, service: str, stream_id: int, early: bytes = b"") -> Stream:
        """A data stream with OPEN_STREAM, and what the application says right behind it."""
        stream = await self.connection.open_stream()
        await stream.write(frame(OPEN_STREAM, {1: service, 3: stream_id}) + early)
        return stream

    async def ready(self) -> Said:
        """STREAM_READY, the next control frame; it carries nothing but the stream's id."""
        said = await self.frames.expect(STREAM_READY)
        assert set(said.fields) <= {1}, "fields a plain agent has never heard of"
        return said

    async def incoming(self) -> tuple[Stream, Said]:
        """The next stream the relay opens, and its first frame."""
        stream = await self.connection.accept_stream()
        return stream, await Frames(stream).expect(INCOMING_STREAM)


@asynccontextmanager
async def _connected(
    relay: Address, credentials: Credentials, trust: Trust, carrier: str
) -> AsyncIterator[Connection]:
    """A connection to a relay, for the length of the ``with``."""
    with without_notes():
        if carrier == "tcp":
            dialer: TcpDialer | QuicEndpoint = TcpDialer(credentials=credentials, trust=trust)
        else:
            dialer = await QuicEndpoint.bind(
                ("127.0.0.1", 0),
                credentials=credentials,
                trust=trust,
                accept_roles=(),
                engine=EngineChoice.AIOQUIC,
            )
        try:
            yield await dialer.dial(relay, roles={Role.RELAY})
        finally:
            await dialer.close()


async def accept(stream: Stream, early: bytes = b"") -> None:
    """STREAM_ACCEPT, and what the backend says right behind it."""
    await stream.write(frame(STREAM_ACCEPT) + early)


async def reject(stream: Stream, code: int, reason: str) -> None:
    """STREAM_REJECT, and the end."""
    await stream.write(frame(STREAM_REJECT, {1: code, 2: reason}))
    stream.finish()


async def refusal(stream: Stream) -> tuple[int, str]:
    """Code and reason of a stream that is refused, and ended behind that."""
    frames = Frames(stream)
    said = await frames.expect(STREAM_REJECT)
    assert await frames.next() is None
    return said.number(1), said.text(2)

"""Connection and link against peers made of frames: what goes wrong with sockets, and in time.

What all carriers promise is in the contract suite; what yamux's rules are, in test_yamux.py.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from outrelay.lib.errors import Closed, ErrorCode, LocalProtocolError
from outrelay.lib.tasks import beside
from outrelay.lib.transport.carrier import WRITE_BUFFER
from outrelay.lib.transport.tcp import link
from outrelay.lib.transport.tcp.connection import TcpConnection
from outrelay.lib.transport.tcp.listener import ListenerLimits, TcpListener
from outrelay.lib.transport.tcp.table import STREAMS
from outrelay.lib.transport.tcp.yamux import PAYLOAD_MAX
from outrelay.lib.transport.tcp.yamux_frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    HEADER_SIZE,
    PING,
    RST,
    SYN,
    UPDATE,
    Note,
    header,
    parse_note,
)
from tests.lib.transport.carriers import LOOPBACK, PKI, TcpHarness
from tests.lib.transport.streams import closing, read_all
from tests.support.hostile_tcp import _context
from tests.support.leap import leap
from tests.support.yamux_peer import Frame

pytestmark = pytest.mark.both_loops


class Peer:
    """A plain client of a listener, which does as it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @property
    def sock(self) -> socket.socket:
        sock: socket.socket = self.writer.get_extra_info("socket")
        return sock

    def say(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    async def frame(self) -> Frame:
        """The next frame; pings are answered on the way."""
        while True:
            fields = HEADER.unpack(await self.reader.readexactly(HEADER_SIZE))
            _, kind, flags, stream, length = fields
            payload = await self.reader.readexactly(length) if kind == DATA else b""
            if kind == PING and flags == SYN:
                self.say(header(PING, ACK, 0, length))
            elif kind != PING:
                return Frame(kind, flags, stream, length, payload)


@asynccontextmanager
async def listening(*, idle_timeout: float = 10.0) -> AsyncIterator[TcpListener]:
    listener = await TcpListener.bind(
        LOOPBACK,
        credentials=PKI.relay(),
        trust=PKI.trust,
        limits=ListenerLimits(idle_timeout=idle_timeout),
    )
    try:
        yield listener
    finally:
        await listener.close()


@asynccontextmanager
async def raw(
    *, idle_timeout: float = 10.0, room: int = 0
) -> AsyncIterator[tuple[TcpConnection, Peer]]:
    """A connection of ours that a plain peer has made.

    Args:
        idle_timeout: Ours.
        room: Bytes the peer's kernel takes without its being read; 0: as usual.
    """
    async with listening(idle_timeout=idle_timeout) as listener:
        context = _context(ssl.PROTOCOL_TLS_CLIENT, PKI.agent(), ("orp/1",))
        sock = socket.socket()
        if room:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, listener.address)
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=context, server_hostname="localhost", limit=1 << 16
        )
        try:
            peer = Peer(reader, writer)
            peer.say(header(PING, SYN, 0, 1))
            yield await listener.accept(), peer
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)


async def until_full(connection: TcpConnection) -> None:
    """Return when neither the peer's kernel nor the connection takes more."""
    still = 0
    while still < 100:
        before = connection._link.sent
        await asyncio.sleep(0)
        still = still + 1 if connection._link.full and connection._link.sent == before else 0


# --- plain peers -------------------------------------------------------------------------


async def test_a_plain_peer_is_served() -> None:
    async with raw() as (connection, peer):
        peer.say(header(UPDATE, SYN, 1, 0), header(DATA, 0, 1, 5), b"hello")
        stream = await connection.accept_stream()
        assert await stream.read() == b"hello"
        await stream.write(b"hi")
        stream.finish()
        assert (await peer.frame())[:3] == (UPDATE, ACK, 1)
        assert await peer.frame() == Frame(DATA, 0, 1, 2, b"hi")
        assert await peer.frame() == Frame(UPDATE, FIN, 1, 0)
        peer.say(header(UPDATE, FIN, 1, 0))
        assert await stream.read() == b""
        async with beside(peer.frame(), name="answer pings"):
            await stream.wait_finished()


async def test_streams_of_ours_reach_a_plain_peer() -> None:
    async with raw() as (connection, peer):
        stream = await connection.open_stream()
        assert stream.id == 1
        await stream.write(b"x")
        assert (await peer.frame())[:3] == (UPDATE, SYN, 2)
        peer.say(header(UPDATE, ACK, 2, 0), header(DATA, FIN, 2, 2), b"ok")
        assert await read_all(stream) == b"ok"


async def test_a_plain_peer_that_leaves_gets_no_new_streams() -> None:
    async with raw() as (connection, peer):
        old = await connection.open_stream()
        peer.say(header(GO_AWAY, 0, 0, 0), header(DATA, 0, 2, 3), b"old")
        assert await old.read() == b"old"
        assert (await closing(connection.open_stream())).by_peer


# --- the end, and how it is told -----------------------------------------------------------


async def test_a_peer_that_breaks_the_rules_is_told_and_no_other_suffers() -> None:
    async with raw() as (connection, peer):
        peer.say(header(UPDATE, 0, 99, 0))
        frame = await peer.frame()
        said = parse_note(frame.payload)
        assert (said.stream, said.code) == (0, ErrorCode.PROTOCOL)
        assert "nobody opened" in said.reason
        assert await peer.frame() == Frame(GO_AWAY, 0, 0, 1)
        assert await peer.reader.read() == b""
        closed = await connection.wait_closed()
        assert (closed.code, closed.by_peer) == (ErrorCode.PROTOCOL, False)


async def test_a_close_is_read_behind_all_that_was_on_its_way() -> None:
    """A socket closed at once, with bytes unread, would take back what was sent."""
    async with raw(room=16 * 1024) as (connection, peer):
        peer.say(header(UPDATE, SYN, 1, 64 << 20))
        stream = await connection.accept_stream()
        writing = asyncio.gather(closing(stream.write(bytes(8 << 20))))
        await until_full(connection)
        peer.say(*(header(DATA, 0, 1, 1000) + bytes(1000),) * 100)
        connection.close(ErrorCode.DRAIN, "going down")
        while (frame := await peer.frame()).stream:
            pass
        assert parse_note(frame.payload) == Note(0, ErrorCode.DRAIN, "going down")
        assert (await peer.frame()).kind == GO_AWAY
        assert await peer.reader.read() == b""
        await writing


async def test_a_peer_that_says_goodbye_in_tls_alone_has_closed() -> None:
    async with raw() as (connection, peer):
        peer.writer.close()
        closed = await connection.wait_closed()
        assert (closed.code, closed.by_peer, closed.lost) == (ErrorCode.NONE, True, False)


@pytest.mark.parametrize("abruptly", [False, True])
async def test_a_peer_that_vanishes_is_lost(abruptly: bool) -> None:
    async with raw() as (connection, peer):
        stream = await connection.open_stream()
        reading = asyncio.gather(closing(stream.read()))
        if abruptly:
            linger = b"\1\0\0\0\0\0\0\0"
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        peer.writer.transport.abort()
        assert (await connection.wait_closed()).lost
        (closed,) = await reading
        assert closed.lost


async def test_garbage_instead_of_tls() -> None:
    async with raw() as (connection, peer):
        peer.writer.transport.get_extra_info("ssl_object")
        fd = peer.sock.fileno()
        with socket.socket(fileno=socket.dup(fd)) as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(sock, b"GET / HTTP/1.1\r\n\r\n")
        closed = await connection.wait_closed()
        assert closed.code is ErrorCode.PROTOCOL
        assert not closed.by_peer


async def test_streams_that_nobody_accepts_are_bounded() -> None:
    async with raw() as (connection, peer):
        for number in range(1, 2 * STREAMS + 10, 2):
            peer.say(header(UPDATE, SYN, number, 0), header(UPDATE, RST, number, 0))
        closed = await connection.wait_closed()
        assert closed.code is ErrorCode.LIMIT


async def test_one_task_accepts() -> None:
    async with raw() as (connection, _):
        async with asyncio.TaskGroup() as group:
            accepting = group.create_task(closing(connection.accept_stream()), name="accept")
            await asyncio.sleep(0)
            with pytest.raises(LocalProtocolError):
                await connection.accept_stream()
            connection.close()
        assert not accepting.result().by_peer


# --- peers that do not read ----------------------------------------------------------------


async def test_a_peer_that_reads_nothing_fills_no_memory() -> None:
    async with raw(room=16 * 1024) as (connection, peer):
        streams = []
        for number in range(1, 17, 2):
            peer.say(header(UPDATE, SYN, number, 64 << 20))
            streams.append(await connection.accept_stream())
        async with asyncio.TaskGroup() as group:
            writing = [group.create_task(closing(each.write(bytes(8 << 20)))) for each in streams]
            await until_full(connection)
            most = link.FULL + PAYLOAD_MAX + (64 << 10)
            assert connection._link.sent - connection._link.acknowledged < most + (16 << 20)
            assert connection._link._waiting < most
            connection.close(ErrorCode.LIMIT, "not read")
            await connection.wait_closed()
        assert all(task.result().code is ErrorCode.LIMIT for task in writing)


async def test_a_peer_that_reads_again_gets_everything() -> None:
    async with raw(room=16 * 1024) as (connection, peer):
        peer.say(header(UPDATE, SYN, 1, 64 << 20))
        stream = await connection.accept_stream()
        data = b"".join(number.to_bytes(4, "big") for number in range(2 << 20))

        async def send() -> None:
            for start in range(0, len(data), WRITE_BUFFER):
                await stream.write(data[start : start + WRITE_BUFFER])
            stream.finish()

        async with asyncio.TaskGroup() as group:
            group.create_task(send(), name="send")
            await until_full(connection)
            got = bytearray()
            while (frame := await peer.frame()).flags != FIN:
                got += frame.payload
        assert got == data


# --- time ----------------------------------------------------------------------------------


async def test_a_peer_that_answers_no_ping_is_dead() -> None:
    """Its kernel may say that all was received; the process behind it shows no life."""
    async with raw(idle_timeout=0.4) as (connection, peer):
        reading = asyncio.gather(peer.reader.read())
        closed = await connection.wait_closed()
        assert closed.lost
        assert "no sign of life" in closed.reason
        await reading


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_narrow_path_is_no_dead_one() -> None:
    """The ping waits behind megabytes that take their time: who acknowledges them lives."""
    async with raw(room=16 * 1024) as (connection, peer):
        peer.say(header(UPDATE, SYN, 1, 64 << 20))
        assert (await peer.frame()).flags == ACK  # and the first ping is answered
        stream = await connection.accept_stream()
        writing = asyncio.gather(closing(stream.write(bytes(8 << 20))))
        await until_full(connection)
        for _ in range(5):
            taken = connection._link.acknowledged
            while connection._link.acknowledged == taken:
                await peer.reader.read(1 << 14)
            leap(6)
            await until_full(connection)
        assert connection.session.closed is None
        for _ in range(2):  # now nobody reads any more
            leap(11)
            await until_full(connection)
        closed = await connection.wait_closed()
        assert closed.lost
        await writing


# --- what the listener and the dialler use -------------------------------------------------


async def test_abort_closes_the_socket_at_once() -> None:
    harness = TcpHarness()
    try:
        pair = await harness.connect()
        near, far = pair.near, pair.far
        assert isinstance(near, TcpConnection)
        near.abort()
        assert near._link._socket.fileno() == -1
        assert not (await near.wait_closed()).by_peer
        near.abort()
        assert (await far.wait_closed()).lost
        with pytest.raises(Closed):
            await near.wait_confirmed()
    finally:
        await harness.close()


async def test_both_ends_may_close_at_once() -> None:
    harness = TcpHarness()
    try:
        pair = await harness.connect()
        pair.near.close(ErrorCode.DRAIN, "near")
        pair.far.close(ErrorCode.DRAIN, "far")
        assert (await pair.near.wait_closed()).reason == "near"
        assert (await pair.far.wait_closed()).reason == "far"
    finally:
        await harness.close()

"""The carrier's Connection and Stream over a yamux session, a TLS layer and a socket.

The session decides, the link moves bytes; what is here lets tasks wait for the one and
brings its plaintext to the other. A *flush* asks the session for what there is to send, once
the tasks that an arrival woke have had their turn: credit, answers and data leave together.

The session is told the time by ``time.monotonic``, by which loops set their timers, too: uvloop's
own clock counts whole milliseconds, and round trips are often shorter.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

from outrelay.lib.alarm import Alarm
from outrelay.lib.errors import Closed, ErrorCode, LocalProtocolError
from outrelay.lib.identity.uri import Identity
from outrelay.lib.transport.carrier import READ_SIZE, WRITE_BUFFER, Address
from outrelay.lib.transport.sockets import unmapped
from outrelay.lib.transport.tcp.channel import Channel
from outrelay.lib.transport.tcp.link import Link
from outrelay.lib.transport.tcp.table import STREAMS
from outrelay.lib.transport.tcp.tls import TlsLayer
from outrelay.lib.transport.tcp.yamux import IDLE_TIMEOUT, EventKind, Session
from outrelay.lib.transport.waiting import Waiting, wake


class TcpStream:
    """A Stream of the carrier port."""

    __slots__ = ("_channel", "_connection", "_finish_waiter", "_reader", "_writer")

    def __init__(self, connection: TcpConnection, channel: Channel) -> None:
        self._connection = connection
        self._channel = channel
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._finish_waiter: asyncio.Future[None] | None = None

    @property
    def id(self) -> int:
        return self._channel.id

    @property
    def unsent(self) -> int:
        return self._channel.outgoing.unsent

    @property
    def window(self) -> int:
        return self._channel.incoming.window

    async def read(self, limit: int = READ_SIZE) -> bytes:
        if self._reader is not None:
            raise LocalProtocolError("another task is reading this stream")
        connection = self._connection
        while (data := connection.read(self._channel, limit)) is None:
            self._reader = connection.future()
            try:
                await self._reader
            finally:
                self._reader = None
        return data

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._writer is not None:
            raise LocalProtocolError("another task is writing this stream")
        connection, outgoing = self._connection, self._channel.outgoing
        has_room = connection.session.write(self._channel, bytes(data))  # a copy, unless it is one
        connection.flush_soon()
        while not has_room:
            self._writer = connection.future()
            try:
                await self._writer
            except asyncio.CancelledError:
                outgoing.trim(WRITE_BUFFER)
                raise
            finally:
                self._writer = None
            if outgoing.error is not None:
                raise outgoing.error.with_traceback(None)
            has_room = not outgoing.full

    def finish(self) -> None:
        self._connection.session.finish(self._channel)
        self._connection.flush_soon()

    def reset(self, code: ErrorCode) -> None:
        self._connection.session.reset(self._channel, code)
        self._connection.flush_soon()

    def stop(self, code: ErrorCode) -> None:
        self._connection.session.stop(self._channel, code)
        self._connection.flush_soon()

    def explain(self, code: ErrorCode) -> None:
        self._channel.told = code

    async def wait_finished(self) -> None:
        outgoing = self._channel.outgoing
        while not outgoing.acknowledged:
            if outgoing.error is not None:
                raise outgoing.error.with_traceback(None)
            if self._finish_waiter is None or self._finish_waiter.done():
                self._finish_waiter = self._connection.future()
            await asyncio.shield(self._finish_waiter)

    def notify(self, kind: EventKind) -> None:
        """Take an event of the session's."""
        match kind:
            case EventKind.READABLE:
                wake(self._reader)
            case EventKind.WRITABLE:
                wake(self._writer)
            case EventKind.FINISHED:
                wake(self._finish_waiter)


class TcpConnection:
    """A Connection of the carrier port, over a socket whose TLS handshake is done.

    Args:
        sock: Non-blocking; the connection closes it.
        tls: Knows the peer.
        dialled: Whether we are the dialling side.
        on_confirmed: Called once, when the peer has shown that it takes part.
        on_closed: Called once, when the socket is closed.
        idle_timeout: Seconds without a sign of life after which the peer is dead.
    """

    carrier = "tcp"

    def __init__(
        self,
        sock: socket.socket,
        tls: TlsLayer,
        *,
        dialled: bool,
        on_confirmed: Callable[[TcpConnection], None] | None = None,
        on_closed: Callable[[TcpConnection, Closed], None] | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.session = Session(dialled=dialled, now=time.monotonic(), idle_timeout=idle_timeout)
        self._peer = tls.peer
        self._peer_address = _address(sock.getpeername)
        self._local_address = _address(sock.getsockname)
        self._on_confirmed = on_confirmed
        self._on_closed = on_closed
        self._accepted = Waiting[TcpStream]("streams of this connection", STREAMS)
        self._credit_waiter: asyncio.Future[None] | None = None
        self._confirmed: asyncio.Future[None] = self.future()
        self._parted: asyncio.Future[None] = self.future()
        self._flush_handle: asyncio.Handle | None = None
        self._alarm = Alarm()
        self._ping_end = 0  # ciphertext up to the last ping, bytes
        self._acknowledged = 0
        self._link = Link(sock, tls, self)
        self.flush_soon()

    @property
    def peer(self) -> Identity:
        return self._peer.identity

    @property
    def peer_expires(self) -> float:
        return self._peer.expires

    @property
    def tells_codes(self) -> bool:
        return self.session.takes_notes

    @property
    def peer_address(self) -> Address:
        return self._peer_address

    @property
    def local_address(self) -> Address:
        return self._local_address

    async def open_stream(self) -> TcpStream:
        while (channel := self.session.open()) is None:
            if self._credit_waiter is None or self._credit_waiter.done():
                self._credit_waiter = self.future()
            await asyncio.shield(self._credit_waiter)
        self.flush_soon()
        return self._adopt(channel)

    async def accept_stream(self) -> TcpStream:
        return await self._accepted.take()

    def close(self, code: ErrorCode = ErrorCode.NONE, reason: str = "") -> None:
        self.session.close(code, reason)
        self._dispatch()
        self.flush_soon()

    def abort(self) -> None:
        """Close the socket at once; whoever waits learns of an end by us."""
        self.close()
        self._link.abort()

    async def wait_closed(self) -> Closed:
        await asyncio.shield(self._parted)
        assert self.session.closed is not None
        return self.session.closed

    async def wait_confirmed(self) -> None:
        """Return when the peer has shown that it takes part.

        Raises:
            Closed: The connection ended before, for instance because the peer refused us.
        """
        await asyncio.shield(self._confirmed)
        if self.session.closed is not None:
            raise self.session.closed.with_traceback(None)

    # For streams

    def future(self) -> asyncio.Future[None]:
        """A future that an event completes."""
        return self._loop.create_future()

    def read(self, channel: Channel, limit: int) -> bytes | None:
        """See ``Session.read``; what it gives rise to is sent."""
        data = self.session.read(channel, limit, time.monotonic())
        if self.session.has_output:
            self.flush_soon()
        return data

    def flush_soon(self) -> None:
        """Send what the session has to send, behind the tasks that are ready to run."""
        if self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._flush)

    # For the link

    @property
    def missing(self) -> int:
        return self.session.missing

    def received(self, data: memoryview) -> None:
        self.session.receive(data, time.monotonic())

    def drained(self) -> None:
        self._dispatch()
        if self.session.has_output:
            self.flush_soon()
        else:
            self._alarm.set(self.session.next_deadline(), self._timeout)

    def lost(self, closed: Closed) -> None:
        self.session.lose(closed)
        self._dispatch()
        self.flush_soon()

    def parted(self) -> None:
        wake(self._parted)

    def gone(self) -> None:
        self._alarm.cancel()
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        assert self.session.closed is not None
        if self._on_closed is not None:
            self._on_closed(self, self.session.closed)

    # Sending, time and events

    def _flush(self) -> None:
        self._flush_handle = None
        session, link = self.session, self._link
        now = time.monotonic()
        while session.has_output and (not link.full or session.closed is not None):
            pings = session.pings
            link.send(session.data_to_send(now))
            if session.pings != pings:
                self._ping_end = link.sent
        self._dispatch()
        if session.closed is None:
            self._alarm.set(session.next_deadline(), self._timeout)
        elif session.closed.lost:
            link.abort()
        else:
            link.part()

    def _timeout(self) -> None:
        now, due = time.monotonic(), self.session.next_deadline()
        if due is None or due > now:
            self._alarm.set(due, self._timeout)
            return
        before, self._acknowledged = self._acknowledged, self._link.acknowledged
        has_ping_arrived = self._acknowledged >= self._ping_end and not self.session.is_ping_due
        if self._acknowledged > before and not has_ping_arrived:
            self.session.alive(now)  # it cannot answer yet, and is not dead either
        self.session.handle_timeout(now)
        self._dispatch()
        self._flush()

    def _dispatch(self) -> None:
        for kind, channel in self.session.events():
            if kind is EventKind.OPENED:
                assert channel is not None
                self._stream_opened(channel)
            elif channel is not None:
                stream = channel.owner
                assert isinstance(stream, TcpStream)
                stream.notify(kind)
            elif kind is EventKind.AVAILABLE:
                wake(self._credit_waiter)
            elif kind is EventKind.CONFIRMED:
                wake(self._confirmed)
                if self._on_confirmed is not None:
                    self._on_confirmed(self)
            else:
                self._lost()

    def _stream_opened(self, channel: Channel) -> None:
        if self._accepted.full:  # opened and given up faster than we accept
            self.close(ErrorCode.LIMIT, "too many streams wait to be accepted")
            return
        self._accepted.put(self._adopt(channel))

    def _adopt(self, channel: Channel) -> TcpStream:
        stream = TcpStream(self, channel)
        channel.owner = stream
        return stream

    def _lost(self) -> None:
        assert self.session.closed is not None
        self._accepted.end(self.session.closed)
        for waiter in (self._confirmed, self._credit_waiter):
            wake(waiter)


def _address(name: Callable[[], Any]) -> Address:
    try:
        return unmapped(name())
    except OSError:  # the peer is gone already; reading tells
        return "", 0

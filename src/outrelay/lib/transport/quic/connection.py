"""The carrier's Connection and Stream over an engine's integers.

They hold futures and remembered ends, nothing else: bytes, windows and timers are the
engine's. Each stream stays in its connection's table until both directions have ended, so
that an event always finds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from outrelay.lib.errors import Closed, ErrorCode, LocalProtocolError, Reset, TransportError
from outrelay.lib.identity.uri import Identity
from outrelay.lib.transport.carrier import READ_SIZE, Address, Peer
from outrelay.lib.transport.quic.engine import STREAMS, Engine, Event, EventKind
from outrelay.lib.transport.waiting import Waiting, wake


class QuicStream:
    """A Stream of the carrier port."""

    __slots__ = (
        *("_connection", "_id", "_reader", "_read_error", "_eof", "_ended"),
        *("_writer", "_write_error", "_finishing", "_finished", "_finish_waiter"),
    )

    def __init__(self, connection: QuicConnection, stream_id: int) -> None:
        self._connection = connection
        self._id = stream_id
        self._eof = False
        self._finishing = False
        self._finished = False  # the peer has everything, or our direction was given up
        self._ended = False  # the peer's direction is over
        self._read_error: TransportError | None = None
        self._write_error: TransportError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._finish_waiter: asyncio.Future[None] | None = None

    @property
    def id(self) -> int:
        return self._id

    @property
    def unsent(self) -> int:
        return self._connection.engine.unsent(self._connection.number, self._id)

    @property
    def window(self) -> int:
        return self._connection.engine.window(self._connection.number, self._id)

    async def read(self, limit: int = READ_SIZE) -> bytes:
        if self._reader is not None:
            raise LocalProtocolError("another task is reading this stream")
        connection = self._connection
        while True:
            if self._read_error is not None:
                raise self._read_error
            if self._eof:
                return b""
            data, self._eof = connection.engine.read(connection.number, self._id, limit)
            if self._eof:
                self._direction_over(receiving=True)
            if data or self._eof:
                connection.flush_soon()
                return data
            self._reader = connection.future()
            try:
                await self._reader
            finally:
                self._reader = None

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._writer is not None:
            raise LocalProtocolError("another task is writing this stream")
        connection = self._connection
        rest = memoryview(data)
        while True:
            if self._write_error is not None:
                raise self._write_error
            if self._finishing:
                raise LocalProtocolError("the stream's direction was finished before")
            taken = connection.engine.write(connection.number, self._id, rest)
            connection.flush_soon()
            if taken == len(rest):
                return
            rest = rest[taken:]
            self._writer = connection.future()
            try:
                await self._writer
            finally:
                self._writer = None

    def finish(self) -> None:
        if self._finishing or self._write_error is not None:
            return
        self._finishing = True
        self._connection.engine.finish(self._connection.number, self._id)
        self._connection.flush_soon()
        wake(self._writer)

    def reset(self, code: ErrorCode) -> None:
        if self._finished or self._write_error is not None:
            return
        self._write_error = Reset(code)
        self._connection.engine.reset(self._connection.number, self._id, code)
        self._connection.flush_soon()
        self._wake_writers()

    def explain(self, code: ErrorCode) -> None:
        """Nothing: the peer's RESET_STREAM has a code."""

    def stop(self, code: ErrorCode) -> None:
        if self._read_error is not None or self._eof:
            return
        self._read_error = Reset(code)
        self._connection.engine.stop_sending(self._connection.number, self._id, code)
        self._direction_over(receiving=True)
        self._connection.flush_soon()
        wake(self._reader)

    async def wait_finished(self) -> None:
        while True:
            if self._write_error is not None:
                raise self._write_error
            if self._finished:
                return
            if self._finish_waiter is None:
                self._finish_waiter = self._connection.future()
            await asyncio.shield(self._finish_waiter)

    def dispatch(self, event: Event) -> None:
        """Take an event of the engine's for this stream."""
        match event.kind:
            case EventKind.READABLE:
                wake(self._reader)
            case EventKind.WRITABLE:
                wake(self._writer)
            case EventKind.RESET:
                self._read_error = self._read_error or Reset(ErrorCode.of(event.code))
                self._direction_over(receiving=True)
                wake(self._reader)
            case EventKind.STOPPED:
                self._write_error = self._write_error or Reset(ErrorCode.of(event.code))
                self._wake_writers()
            case EventKind.FINISHED:
                self._direction_over(receiving=False)
                wake(self._finish_waiter)

    def lose(self, closed: Closed) -> None:
        """The connection is gone."""
        if not self._eof:
            self._read_error = self._read_error or closed
        if not self._finished:
            self._write_error = self._write_error or closed
        wake(self._reader)
        self._wake_writers()

    def _wake_writers(self) -> None:
        wake(self._writer)
        wake(self._finish_waiter)

    def _direction_over(self, *, receiving: bool) -> None:
        if receiving:
            self._ended = True
        else:
            self._finished = True
        if self._ended and self._finished:
            self._connection.forget(self._id)


class QuicConnection:
    """A Connection of the carrier port.

    Args:
        engine: Owns the connection.
        number: The engine's name for it.
        peer: Who it is with.
        local_address: Of the endpoint's socket.
        flush_soon: Has the endpoint send what the engine has to send.
    """

    carrier = "quic"
    tells_codes = True

    def __init__(
        self,
        engine: Engine,
        number: int,
        peer: Peer,
        local_address: Address,
        flush_soon: Callable[[], None],
    ) -> None:
        self.engine = engine
        self.number = number
        self.flush_soon = flush_soon
        self._peer = peer
        self._local_address = local_address
        self._peer_address = engine.address(number)
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, QuicStream] = {}
        self._accepted = Waiting[QuicStream]("streams of this connection", STREAMS)
        self._credit_waiter: asyncio.Future[None] | None = None
        self._closed: Closed | None = None
        self._closed_waiter: asyncio.Future[None] = self.future()

    @property
    def peer(self) -> Identity:
        return self._peer.identity

    @property
    def peer_expires(self) -> float:
        return self._peer.expires

    @property
    def peer_address(self) -> Address:
        if self._closed is None:
            self._peer_address = self.engine.address(self.number)
        return self._peer_address

    @property
    def local_address(self) -> Address:
        return self._local_address

    @property
    def datagram_size(self) -> int:
        """The largest datagrams the path is known to carry, bytes; it is found out by use."""
        return 0 if self._closed else self.engine.datagram_size(self.number)

    @property
    def has_streams(self) -> bool:
        """Whether any stream lives: the control stream counts as none."""
        return len(self._streams) > 1

    async def open_stream(self) -> QuicStream:
        while True:
            if self._closed is not None:
                raise self._closed
            number = self.engine.open_stream(self.number)
            if number is not None:
                stream = self._streams[number] = QuicStream(self, number)
                return stream
            self.flush_soon()  # the peer may have to be told
            if self._credit_waiter is None or self._credit_waiter.done():
                self._credit_waiter = self.future()
            await asyncio.shield(self._credit_waiter)

    async def accept_stream(self) -> QuicStream:
        return await self._accepted.take()

    def close(self, code: ErrorCode = ErrorCode.NONE, reason: str = "") -> None:
        if self._closed is None:
            self.engine.close(self.number, code, reason)
            self._lose(Closed(code, reason))
            self.flush_soon()

    def give_up(self, reason: str) -> None:
        """The peer is gone, without a word."""
        if self._closed is None:
            self.engine.close(self.number, ErrorCode.NONE, "")
            self._lose(Closed(reason=reason, lost=True))
            self.flush_soon()

    async def wait_closed(self) -> Closed:
        await asyncio.shield(self._closed_waiter)
        assert self._closed is not None
        return self._closed

    def dispatch(self, event: Event) -> None:
        """Take an event of the engine's for this connection."""
        match event.kind:
            case EventKind.LOST:
                self._lose(
                    Closed(
                        ErrorCode.of(event.code),
                        event.reason,
                        by_peer=event.by_peer,
                        lost=event.timed_out,
                    )
                )
                wake(self._closed_waiter)
            case EventKind.STREAM_OPENED:
                self._stream_opened(event.stream)
            case EventKind.STREAMS_AVAILABLE:
                wake(self._credit_waiter)
            case _:
                known = self._streams.get(event.stream)
                if known is not None:
                    known.dispatch(event)

    def _stream_opened(self, number: int) -> None:
        if self._accepted.full:  # opened and given up faster than we accept
            self.close(ErrorCode.LIMIT, "too many streams wait to be accepted")
            return
        stream = self._streams[number] = QuicStream(self, number)
        self._accepted.put(stream)

    def forget(self, stream_id: int) -> None:
        """Both directions of the stream are over."""
        self._streams.pop(stream_id, None)

    def future(self) -> asyncio.Future[None]:
        """A future that ``wake`` completes."""
        return self._loop.create_future()

    def _lose(self, closed: Closed) -> None:
        if self._closed is not None:
            return
        self._closed = closed
        for stream in list(self._streams.values()):
            stream.lose(closed)
        self._streams.clear()
        self._accepted.end(closed)
        wake(self._credit_waiter)

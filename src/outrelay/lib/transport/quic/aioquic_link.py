"""One aioquic connection as the engine sees it: its ids, and its news as the port's events.

Source: engines.md.
"""

from __future__ import annotations

from aioquic.quic import events as quic_events
from aioquic.quic.packet import QuicErrorCode

from outrelay.lib.errors import ErrorCode
from outrelay.lib.transport.carrier import Address, Peer
from outrelay.lib.transport.quic.aioquic_core import CoreConnection
from outrelay.lib.transport.quic.aioquic_streams import StreamRecord
from outrelay.lib.transport.quic.ends import (
    FORGOTTEN,
    IDLE_TIMEOUT,
    NO_ANSWER,
    cause_of,
    is_final,
    transport_code,
)
from outrelay.lib.transport.quic.engine import Event, EventKind
from outrelay.lib.transport.quic.gate import Ticket
from outrelay.lib.transport.refusal import Cause


class Link:
    """One connection, by its number.

    Args:
        number: The engine's name for it.
        dialled: Whether we are the client.
        address: Where its first datagram came from or went to.
        handshake_by: When its handshake must be over.
        table: The engine's connection ids, kept up to date here.
    """

    __slots__ = (
        *("number", "dialled", "address", "core", "peer", "pings"),
        *("connected", "ended", "drained", "deadline", "handshake_by", "refusal", "ticket"),
        *("_table", "_ids", "_events"),
    )

    def __init__(
        self,
        number: int,
        *,
        dialled: bool,
        address: Address,
        handshake_by: float,
        table: dict[bytes, Link],
    ) -> None:
        self.number = number
        self.dialled = dialled
        self.address = address
        self.handshake_by = handshake_by
        self.core: CoreConnection
        self.connected = False
        self.ended = False  # LOST or REFUSED was said
        self.drained = False
        self.deadline = float("inf")
        self.peer: Peer | None = None
        self.refusal = ""  # why our own judge said no
        self.ticket: Ticket | None = None  # while the peer's handshake is under way
        self.pings = 0
        self._table = table
        self._ids: set[bytes] = set()
        self._events: list[Event] = []

    @property
    def is_pending(self) -> bool:
        """Whether the handshake is under way."""
        return not (self.connected or self.ended)

    def route(self, connection_id: bytes) -> None:
        """Datagrams for this id are ours."""
        self._ids.add(connection_id)
        self._table[connection_id] = self

    def unroute(self, connection_id: bytes) -> None:
        """No longer."""
        self._ids.discard(connection_id)
        if self._table.get(connection_id) is self:
            del self._table[connection_id]

    def unroute_all(self) -> None:
        """The connection is gone."""
        for connection_id in list(self._ids):
            self.unroute(connection_id)

    def collect(self, events: list[Event]) -> None:
        """Turn what aioquic has noticed since the last look into events of the port."""
        if self.drained:
            return
        self._events = events
        core = self.core
        if self.is_pending and core.confirmed and self.peer is not None:
            self._confirmed(self.peer)
        if self.is_pending and core.closing is None:
            for connection_id in core.host_ids:  # the peer may use them all before we hear of it
                self.route(connection_id)
            return  # streams that came with the handshake are heard of once it is over
        while (event := core.next_event()) is not None:
            self._translate(event)
        for record in core.readable:
            self._say(EventKind.READABLE, record.id)
        core.readable.clear()
        self._progress()
        if core.closing is not None and not self.ended:
            self._ended()

    def _translate(self, event: quic_events.QuicEvent) -> None:
        match event:
            case quic_events.StreamDataReceived():
                record = self._seen(event.stream_id)
                if record is not None:
                    self.core.deliver(record, event.data, fin=event.end_stream)
            case quic_events.StreamReset():
                record = self._seen(event.stream_id)
                if record is not None:
                    self._reset_received(record, event.error_code)
            case quic_events.StopSendingReceived():
                record = self._seen(event.stream_id)
                if record is not None:
                    self._stop_received(record, event.error_code)
            case quic_events.ConnectionIdIssued():
                self.route(event.connection_id)
            case quic_events.ConnectionIdRetired():
                self.unroute(event.connection_id)
            case quic_events.ConnectionTerminated():
                self._drained()

    def _say(self, kind: EventKind, stream: int = -1, code: int = 0) -> None:
        if self.connected and not self.ended:
            self._events.append(Event(kind, self.number, stream, code))

    def _seen(self, stream: int) -> StreamRecord | None:
        record, is_new = self.core.record(stream)
        if is_new:
            self._say(EventKind.STREAM_OPENED, stream)
        return record

    def _stop_received(self, record: StreamRecord, code: int) -> None:
        """The peer reads no more; a repeated or late frame is no news."""
        self.core.enqueue(record)  # aioquic has answered with a reset
        if not (record.halted or record.finish_reported):
            record.halted = True
            self._say(EventKind.STOPPED, record.id, code)

    def _reset_received(self, record: StreamRecord, code: int) -> None:
        record.buffer.clear()
        record.read_done = True
        self.core.readable.discard(record)
        if not record.stopped:
            self._say(EventKind.RESET, record.id, code)
        self.core.release_if_done(record)

    def _progress(self) -> None:
        core = self.core
        if core.finished:
            finished, core.finished = core.finished, []
            for record in finished:
                self._say(EventKind.FINISHED, record.id)
        for record in core.unblocked():
            self._say(EventKind.WRITABLE, record.id)
        if core.waits_for_streams and core.has_streams_credit:
            core.waits_for_streams = False
            self._say(EventKind.STREAMS_AVAILABLE)

    def _confirmed(self, peer: Peer) -> None:
        self.connected = True
        self._events.append(Event(EventKind.CONNECTED, self.number, peer=peer))

    def _ended(self) -> None:
        """The connection is over, whatever packets still follow."""
        self.ended = True
        end = self.core.closing
        by_peer = self.core.closed_by_peer
        if self.connected:
            timed_out = not by_peer and _is_silent_end(end)
            self._events.append(
                Event(
                    EventKind.LOST,
                    self.number,
                    code=ErrorCode.NONE if timed_out else _code_of(end),
                    reason=end.reason_phrase,
                    by_peer=by_peer,
                    timed_out=timed_out,
                )
            )
            return
        self._events.append(
            Event(
                EventKind.REFUSED,
                self.number,
                reason=self.refusal or _refusal_text(end, by_peer=by_peer),
                address=self.address,
                by_peer=by_peer,
                final=is_final(end.error_code),
                cause=self._cause(end, by_peer=by_peer),
            )
        )

    def _cause(self, end: quic_events.ConnectionTerminated, *, by_peer: bool) -> Cause:
        if by_peer:
            return Cause.PEER
        if self.refusal == NO_ANSWER or _is_silent_end(end):
            return Cause.TIMEOUT
        return cause_of(end.error_code)

    def _drained(self) -> None:
        if not self.ended:
            self._ended()
        self._events.append(Event(EventKind.DRAINED, self.number))
        self.drained = True


def _is_silent_end(end: quic_events.ConnectionTerminated) -> bool:
    """Whether the path or the peer just went away, without a word."""
    return (
        end.reason_phrase in (IDLE_TIMEOUT, FORGOTTEN)
        or end.error_code == QuicErrorCode.NO_VIABLE_PATH
    )


def _code_of(end: quic_events.ConnectionTerminated) -> int:
    """The application's code, or what a code of the transport's amounts to."""
    if end.frame_type is None:
        return end.error_code
    return transport_code(end.error_code)


def _refusal_text(end: quic_events.ConnectionTerminated, *, by_peer: bool) -> str:
    if end.reason_phrase == IDLE_TIMEOUT:
        return "no answer"
    who = "refused by the peer: " if by_peer else ""
    return who + (end.reason_phrase or f"handshake failed (0x{end.error_code:x})")

"""The packet engine made of aioquic: pure Python to install, always there.

It owns the connections of one socket: finds the connection a datagram belongs to by its
connection id, answers strangers (Retry under load, version negotiation, silence), collects
what arrives per stream, and turns aioquic's events into the port's.

Invariants: a connection that may have packets is in ``_touched`` until ``transmits`` has
asked it; the deadline heap holds an entry at or before each connection's deadline; an
exception inside aioquic ends the connection it happened in, never the engine.

Source: RFC 9000 sections 5.2, 8.1 and 10; engines.md.
"""

from __future__ import annotations

import heapq
import logging
import os
import ssl
from collections.abc import Collection
from datetime import UTC, datetime

from aioquic.quic import events as quic_events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
)
from aioquic.quic.retry import QuicRetryTokenHandler
from cryptography import x509

from outrelay.lib.errors import ErrorCode, IdentityError
from outrelay.lib.identity.uri import Role
from outrelay.lib.identity.verify import Usage, verify_peer
from outrelay.lib.transport.carrier import WRITE_BUFFER, Address
from outrelay.lib.transport.quic.aioquic_core import FORGOTTEN, CoreConnection
from outrelay.lib.transport.quic.aioquic_streams import StreamRecord
from outrelay.lib.transport.quic.engine import (
    STREAM_WINDOW,
    EngineOptions,
    Event,
    EventKind,
    Peer,
    Transmit,
)
from outrelay.lib.transport.quic.header import CID_LENGTH, Header, parse_header
from outrelay.lib.transport.quic.reset import StatelessResets, is_reset
from outrelay.lib.transport.quic.segments import segment, split

_log = logging.getLogger(__name__)

_CERTIFICATE_ALERTS = range(0x100 + 42, 0x100 + 50)
_FINAL_ALERTS = {*_CERTIFICATE_ALERTS, 0x100 + 116, 0x100 + 120, 0x100 + 40}
"""Alerts that another attempt cannot change: certificates, no common ALPN."""


class _Link:
    """One connection, by its number."""

    __slots__ = (
        *("number", "dialled", "address", "core", "peer", "routes", "pings"),
        *("connected", "ended", "drained", "deadline", "handshake_by", "refusal"),
    )

    def __init__(self, number: int, *, dialled: bool, address: Address, handshake_by: float):
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
        self.pings = 0
        self.routes: set[bytes] = set()


class AioquicEngine:
    """See the port, ``engine.Engine``."""

    name = "aioquic"

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._links: dict[int, _Link] = {}
        self._routes: dict[bytes, _Link] = {}
        self._next_number = 1
        self._touched: dict[int, _Link] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._events: list[Event] = []
        self._answers: list[Transmit] = []  # to strangers
        self._handshakes = 0
        self._retry = QuicRetryTokenHandler()
        self._resets = StatelessResets(options.credentials)

    # Datagrams in

    def receive(self, data: memoryview, segment_size: int, address: Address, now: float) -> None:
        for datagram in split(data, segment_size):
            header = parse_header(datagram)
            if header is None:
                continue
            link = self._routes.get(header.destination)
            if link is None:
                link = self._stranger(header, datagram, address, now)
            if link is not None:
                self._feed(link, datagram, address, now)
                if not link.core.begun:
                    self._forget(link)

    def _feed(self, link: _Link, datagram: bytes, address: Address, now: float) -> None:
        self._touched[link.number] = link
        try:
            link.core.receive_datagram(datagram, address, now)
        except Exception as error:  # noqa: BLE001 - hostile input found a bug: one peer pays
            self._broken(link, error)

    def _broken(self, link: _Link, error: Exception) -> None:
        _log.warning("connection ended by a fault in the QUIC engine: %r", error, exc_info=error)
        link.core.close(error_code=QuicErrorCode.INTERNAL_ERROR, frame_type=0)

    def _stranger(
        self, header: Header, datagram: bytes, address: Address, now: float
    ) -> _Link | None:
        """A datagram for no connection of ours: perhaps the beginning of one."""
        if not header.is_long:
            self._lost_track(header, datagram, address, now)
            return None
        if not self._options.accept_roles or len(datagram) < 1200:
            return None
        if header.version != QuicProtocolVersion.VERSION_1:
            if header.version:
                self._answer_version(header, address)
            return None
        if not header.is_initial or len(header.destination) < 8:
            return None
        if self._handshakes >= self._options.handshakes_max:
            return None
        if header.token:
            return self._accept_with_token(header, address, now)
        if self._handshakes >= self._options.retry_above:
            self._answer_retry(header, address, now)
            return None
        return self._accept(header.destination, None, header.destination, address, now)

    def _lost_track(self, header: Header, datagram: bytes, address: Address, now: float) -> None:
        """A packet of an established connection we do not know: one side has forgotten it."""
        for link in self._links.values():
            if link.dialled and is_reset(datagram, link.core.peer_reset_tokens):
                self._touched[link.number] = link
                link.core.forgotten()
                return
        if self._options.accept_roles:
            answer = self._resets.answer(header.destination, len(datagram), now)
            if answer is not None:
                self._answers.append(Transmit(address, [answer], len(answer)))

    def _answer_version(self, header: Header, address: Address) -> None:
        answer = encode_quic_version_negotiation(
            source_cid=header.destination,
            destination_cid=header.source,
            supported_versions=[QuicProtocolVersion.VERSION_1],
        )
        self._answers.append(Transmit(address, [answer], len(answer)))

    def _answer_retry(self, header: Header, address: Address, now: float) -> None:
        source = os.urandom(CID_LENGTH)
        token = self._retry.create_token(
            address=address,
            original_destination_connection_id=header.destination,
            retry_source_connection_id=source,
            now=now,
        )
        answer = encode_quic_retry(
            version=QuicProtocolVersion.VERSION_1,
            source_cid=source,
            destination_cid=header.source,
            original_destination_cid=header.destination,
            retry_token=token,
        )
        self._answers.append(Transmit(address, [answer], len(answer)))

    def _accept_with_token(self, header: Header, address: Address, now: float) -> _Link | None:
        try:
            original = self._retry.validate_token(
                address=address, destination_cid=header.destination, token=header.token, now=now
            )
        except ValueError:
            return None
        return self._accept(original, header.destination, header.destination, address, now)

    def _accept(
        self,
        original: bytes,
        retry_source: bytes | None,
        destination: bytes,
        address: Address,
        now: float,
    ) -> _Link:
        link = self._new_link(dialled=False, address=address, now=now)
        link.core = CoreConnection(
            configuration=self._configuration(is_client=False, server_name=None),
            judge=lambda chain: self._judge(
                link, chain, Usage.CLIENT, self._options.accept_roles, ""
            ),
            sizes=self._options.datagram_sizes,
            reset_token=self._resets.token,
            original_destination_connection_id=original,
            retry_source_connection_id=retry_source,
        )
        self._route(link, destination)
        self._route(link, link.core.host_cid)
        return link

    def _new_link(self, *, dialled: bool, address: Address, now: float) -> _Link:
        number, self._next_number = self._next_number, self._next_number + 1
        link = self._links[number] = _Link(
            number,
            dialled=dialled,
            address=address,
            handshake_by=now + self._options.handshake_timeout,
        )
        self._handshakes += not dialled
        self._touched[number] = link
        return link

    def _route(self, link: _Link, cid: bytes) -> None:
        link.routes.add(cid)
        self._routes[cid] = link

    def _configuration(self, *, is_client: bool, server_name: str | None) -> QuicConfiguration:
        options = self._options
        configuration = QuicConfiguration(
            alpn_protocols=[options.alpn],
            congestion_control_algorithm="cubic",
            connection_id_length=CID_LENGTH,
            idle_timeout=options.idle_timeout,
            is_client=is_client,
            max_datagram_size=options.datagram_sizes[0],
            max_stream_data=STREAM_WINDOW,
            server_name=server_name,
        )
        configuration.supported_versions = [QuicProtocolVersion.VERSION_1]
        configuration.certificate = options.credentials.certificate
        configuration.certificate_chain = list(options.credentials.chain)
        configuration.private_key = options.credentials.private_key
        configuration.verify_mode = ssl.CERT_NONE  # the judge verifies, for both roles
        return configuration

    def _judge(
        self,
        link: _Link,
        chain: list[x509.Certificate],
        usage: Usage,
        roles: Collection[Role],
        server_name: str,
    ) -> None:
        try:
            identity = verify_peer(
                chain,
                self._options.trust,
                usage=usage,
                roles=roles,
                server_name=server_name,
                now=datetime.now(UTC),
            )
        except IdentityError as error:
            link.refusal = str(error)
            raise
        link.peer = Peer(identity=identity, expires=chain[0].not_valid_after_utc.timestamp())

    # Datagrams out

    def transmits(self, now: float) -> list[Transmit]:
        out, self._answers = self._answers, []
        touched, self._touched = self._touched, {}
        for link in touched.values():
            try:
                datagrams = link.core.datagrams_to_send(now)
            except Exception as error:  # noqa: BLE001 - see _feed
                self._broken(link, error)
                datagrams = []
            out += segment(datagrams)
            self._collect(link)
            if link.core.more or (datagrams and not link.ended):
                self._touched[link.number] = link
            self._schedule(link)
        return out

    # Time

    def next_deadline(self) -> float | None:
        deadlines = self._deadlines
        while deadlines:
            at, number = deadlines[0]
            link = self._links.get(number)
            if link is not None and link.deadline == at:
                return at
            heapq.heappop(deadlines)
        return None

    def handle_timeout(self, now: float) -> None:
        while (at := self.next_deadline()) is not None and at <= now:
            _, number = heapq.heappop(self._deadlines)
            link = self._links[number]
            link.deadline = float("inf")
            self._touched[number] = link
            if not link.connected and not link.ended and now >= link.handshake_by:
                link.refusal = link.refusal or "no answer in time"
                link.core.close(error_code=QuicErrorCode.INTERNAL_ERROR, frame_type=0)
            self._tick(link, now)
            self._collect(link)

    def _tick(self, link: _Link, now: float) -> None:
        timer = link.core.get_timer()
        if timer is not None and timer <= now:
            try:
                link.core.handle_timer(now)
            except Exception as error:  # noqa: BLE001 - see _feed
                self._broken(link, error)

    def _schedule(self, link: _Link) -> None:
        if link.drained:
            return
        timer = link.core.get_timer()
        deadline = float("inf") if timer is None else timer
        if not link.connected and not link.ended:
            deadline = min(deadline, link.handshake_by)
        if deadline != link.deadline:
            link.deadline = deadline
            heapq.heappush(self._deadlines, (deadline, link.number))

    # Events

    def events(self) -> list[Event]:
        for link in list(self._touched.values()):
            self._collect(link)
        events, self._events = self._events, []
        return events

    def _collect(self, link: _Link) -> None:
        """Turn what aioquic has noticed since the last look into events of the port."""
        if link.drained:
            return
        core = link.core
        while (event := core.next_event()) is not None:
            self._translate(link, event)
        for record in core.readable:
            self._say(EventKind.READABLE, link, record.id)
        core.readable.clear()
        self._progress(link)
        if core.closing is not None and not link.ended:
            self._ended(link)

    def _translate(self, link: _Link, event: quic_events.QuicEvent) -> None:
        match event:
            case quic_events.StreamDataReceived():
                record = self._seen(link, event.stream_id)
                if record is not None:
                    link.core.deliver(record, event.data, fin=event.end_stream)
            case quic_events.StreamReset():
                record = self._seen(link, event.stream_id)
                if record is not None:
                    self._reset_received(link, record, event.error_code)
            case quic_events.StopSendingReceived():
                record = self._seen(link, event.stream_id)
                if record is not None:
                    link.core.enqueue(record)  # aioquic answers with a reset
                    self._say(EventKind.STOPPED, link, record.id, event.error_code)
            case quic_events.ConnectionIdIssued():
                self._route(link, event.connection_id)
            case quic_events.ConnectionIdRetired():
                self._unroute(link, event.connection_id)
            case quic_events.ConnectionTerminated():
                self._drained(link)

    def _say(self, kind: EventKind, link: _Link, stream: int = -1, code: int = 0) -> None:
        if not link.ended:
            self._events.append(Event(kind, link.number, stream, code))

    def _seen(self, link: _Link, stream: int) -> StreamRecord | None:
        record, is_new = link.core.record(stream)
        if is_new:
            self._say(EventKind.STREAM_OPENED, link, stream)
        return record

    def _reset_received(self, link: _Link, record: StreamRecord, code: int) -> None:
        record.buffer.clear()
        record.read_done = True
        if not record.stopped:
            self._say(EventKind.RESET, link, record.id, code)
        link.core.release_if_done(record)

    def _progress(self, link: _Link) -> None:
        core = link.core
        if not link.connected and not link.ended and core.confirmed and link.peer is not None:
            self._confirmed(link, link.peer)
        if core.finished:
            finished, core.finished = core.finished, []
            for record in finished:
                self._say(EventKind.FINISHED, link, record.id)
        for record in core.unblocked():
            self._say(EventKind.WRITABLE, link, record.id)
        if core.waits_for_streams and core.has_streams_credit:
            core.waits_for_streams = False
            self._say(EventKind.STREAMS_AVAILABLE, link)

    def _confirmed(self, link: _Link, peer: Peer) -> None:
        link.connected = True
        self._handshakes -= not link.dialled
        self._events.append(Event(EventKind.CONNECTED, link.number, peer=peer))

    def _ended(self, link: _Link) -> None:
        """The connection is over, whatever packets still follow."""
        link.ended = True
        end = link.core.closing
        by_peer = link.core.closed_by_peer
        if link.connected:
            is_application = end.frame_type is None
            self._events.append(
                Event(
                    EventKind.LOST,
                    link.number,
                    code=end.error_code if is_application else self._code_of(end.error_code),
                    reason=end.reason_phrase,
                    by_peer=by_peer,
                    timed_out=end.reason_phrase in ("Idle timeout", FORGOTTEN) and not by_peer,
                )
            )
            return
        self._handshakes -= not link.dialled
        self._events.append(
            Event(
                EventKind.REFUSED,
                link.number,
                reason=link.refusal or self._refusal_text(end, by_peer=by_peer),
                address=link.address,
                by_peer=by_peer,
                final=end.error_code in _FINAL_ALERTS,
            )
        )

    @staticmethod
    def _code_of(transport_code: int) -> int:
        return ErrorCode.NONE if transport_code == 0 else ErrorCode.PROTOCOL

    @staticmethod
    def _refusal_text(end: quic_events.ConnectionTerminated, *, by_peer: bool) -> str:
        if end.reason_phrase == "Idle timeout":
            return "no answer"
        who = "refused by the peer: " if by_peer else ""
        return who + (end.reason_phrase or f"handshake failed (0x{end.error_code:x})")

    def _drained(self, link: _Link) -> None:
        if not link.ended:
            self._ended(link)
        self._events.append(Event(EventKind.DRAINED, link.number))
        self._remove(link)

    def _forget(self, link: _Link) -> None:
        """Its first datagram was no Initial of anybody: nothing was begun."""
        self._handshakes -= 1
        self._remove(link)

    def _remove(self, link: _Link) -> None:
        link.drained = True
        for cid in list(link.routes):
            self._unroute(link, cid)
        del self._links[link.number]
        self._touched.pop(link.number, None)

    def _unroute(self, link: _Link, cid: bytes) -> None:
        link.routes.discard(cid)
        if self._routes.get(cid) is link:
            del self._routes[cid]

    # What the shell asks

    def connect(
        self, address: Address, *, roles: Collection[Role], server_name: str, now: float
    ) -> int:
        link = self._new_link(dialled=True, address=address, now=now)
        link.core = CoreConnection(
            configuration=self._configuration(is_client=True, server_name=server_name or None),
            judge=lambda chain: self._judge(link, chain, Usage.SERVER, roles, server_name),
            sizes=self._options.datagram_sizes,
            reset_token=self._resets.token,
        )
        self._route(link, link.core.host_cid)
        link.core.connect(address, now)
        return link.number

    def open_stream(self, connection: int) -> int | None:
        core = self._links[connection].core
        if not core.has_streams_credit:
            core.waits_for_streams = True
            return None
        return core.open().id

    def read(self, connection: int, stream: int, limit: int) -> tuple[bytes, bool]:
        link = self._links[connection]
        record = link.core.streams[stream]
        buffer = record.buffer
        if len(buffer) <= limit:
            data = bytes(buffer)
            buffer.clear()
        else:
            data = bytes(memoryview(buffer)[:limit])
            del buffer[:limit]
        record.consumed += len(data)
        fin = record.fin and not buffer
        if fin:
            record.read_done = True
            link.core.release_if_done(record)
        elif link.core.credit_due(record):
            self._touch(link, record)
        return data, fin

    def write(self, connection: int, stream: int, data: memoryview) -> int:
        link = self._links[connection]
        record = link.core.streams[stream]
        room = WRITE_BUFFER - record.unsent
        taken = min(len(data), max(room, 0))
        if taken:
            record.quic.sender.write(bytes(data[:taken]))
            self._touch(link, record)
        if taken < len(data):
            link.core.blocked[stream] = record
        return taken

    def unsent(self, connection: int, stream: int) -> int:
        link = self._links.get(connection)
        record = link.core.streams.get(stream) if link is not None else None
        return record.unsent if record is not None else 0

    def finish(self, connection: int, stream: int) -> None:
        link = self._links[connection]
        record = link.core.streams[stream]
        record.quic.sender.write(b"", end_stream=True)
        self._touch(link, record)

    def reset(self, connection: int, stream: int, code: int) -> None:
        link = self._links[connection]
        record = link.core.streams.get(stream)
        if record is not None:
            link.core.blocked.pop(stream, None)
            record.quic.sender.reset(code)
            self._touch(link, record)

    def stop_sending(self, connection: int, stream: int, code: int) -> None:
        link = self._links[connection]
        record = link.core.streams.get(stream)
        if record is None or record.stopped:
            return
        record.stopped = record.read_done = True
        record.buffer.clear()
        if record.quic.receiver.is_finished:
            link.core.release_if_done(record)
        else:
            record.quic.receiver.stop(code)
            self._touch(link, record)

    def _touch(self, link: _Link, record: StreamRecord) -> None:
        link.core.enqueue(record)
        self._touched[link.number] = link

    def ping(self, connection: int) -> None:
        link = self._links[connection]
        link.pings += 1
        link.core.send_ping(link.pings)
        self._touched[connection] = link

    def close(self, connection: int, code: int, reason: str) -> None:
        link = self._links.get(connection)
        if link is not None:
            link.core.close(error_code=code, reason_phrase=reason)
            self._touched[connection] = link

    def address(self, connection: int) -> Address:
        link = self._links.get(connection)
        if link is None:
            raise KeyError(connection)
        address = link.core.get_peer_address()
        return (str(address[0]), int(address[1])) if address is not None else link.address

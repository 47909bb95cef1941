"""The packet engine made of aioquic: pure Python to install, always there.

It owns the connections of one socket: finds the connection a datagram belongs to by its
connection id, lets new ones begin (``strangers``), and turns aioquic's events into the port's.

Invariants: a connection that may have packets is in ``_touched`` until ``transmits`` has
asked it; the deadline heap holds an entry at or before each connection's deadline; an
exception inside aioquic ends the connection it happened in, never the engine.

Source: RFC 9000 sections 5.2, 8.1 and 10; engines.md.
"""

from __future__ import annotations

import heapq
import ssl
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicErrorCode
from cryptography import x509

from outrelay.lib.errors import IdentityError
from outrelay.lib.identity.certs import Credentials
from outrelay.lib.identity.uri import Role
from outrelay.lib.identity.verify import Usage, verify_peer
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.transport.carrier import WRITE_BUFFER, Address, Peer
from outrelay.lib.transport.quic.aioquic_core import CoreConnection
from outrelay.lib.transport.quic.aioquic_link import Link
from outrelay.lib.transport.quic.aioquic_streams import StreamRecord
from outrelay.lib.transport.quic.ends import NO_ANSWER
from outrelay.lib.transport.quic.engine import (
    STREAM_WINDOW,
    EngineOptions,
    Event,
    Transmit,
)
from outrelay.lib.transport.quic.gate import Gate
from outrelay.lib.transport.quic.header import CID_LENGTH, VERSION, Header, parse_header
from outrelay.lib.transport.quic.reset import StatelessResets, is_reset
from outrelay.lib.transport.quic.segments import segment, split
from outrelay.lib.transport.quic.strangers import Admission, Strangers
from outrelay.lib.transport.refusal import Cause, Refusal

_log = get_logger(__name__)


class AioquicEngine:
    """See the port, ``engine.Engine``."""

    name = "aioquic"
    uses_ecn = False

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._links: dict[int, Link] = {}
        self._dialled: dict[int, Link] = {}
        self._routes: dict[bytes, Link] = {}
        self._next_number = 1
        self._touched: dict[int, Link] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._events: list[Event] = []
        self._gate = Gate(options)
        self._resets = StatelessResets(options.credentials)
        self._strangers = Strangers(options, self._gate, self._resets)

    def show(self, credentials: Credentials) -> None:
        self._options = replace(self._options, credentials=credentials)
        self._resets.use(credentials)

    # Datagrams in

    def receive(
        self, data: memoryview, segment_size: int, address: Address, now: float, ecn: int = 0
    ) -> None:
        for datagram in split(data, segment_size):
            header = parse_header(datagram)
            if header is None:
                self._gate.refuse(Cause.NOISE, address)
                continue
            link = self._routes.get(header.destination)
            if link is None:
                link = self._stranger(header, datagram, address, now)
            if link is not None:
                self._feed(link, datagram, address, now)
                if not link.core.begun:  # its first datagram was no Initial of anybody
                    self._gate.refuse(Cause.NOISE, address)
                    self._remove(link)

    def _feed(self, link: Link, datagram: bytes, address: Address, now: float) -> None:
        self._touched[link.number] = link
        try:
            link.core.receive_datagram(datagram, address, now)
        except Exception as error:  # noqa: BLE001 - hostile input found a bug: one peer pays
            self._broken(link, error)

    def _broken(self, link: Link, error: Exception) -> None:
        _log.warning(
            "connection ended by a fault in the QUIC engine", error=repr(error), exc_info=error
        )
        link.core.close(error_code=QuicErrorCode.INTERNAL_ERROR, frame_type=0)

    def _stranger(
        self, header: Header, datagram: bytes, address: Address, now: float
    ) -> Link | None:
        """A datagram for no connection of ours: perhaps the beginning of one."""
        if not header.is_long:
            self._lost_track(header, datagram, address, now)
            return None
        admission = self._strangers.admit(header, len(datagram), address, now)
        if admission is None:
            return None
        return self._accept(header.destination, admission, address, now)

    def _lost_track(self, header: Header, datagram: bytes, address: Address, now: float) -> None:
        """A packet of an established connection we do not know: one side has forgotten it."""
        for link in self._dialled.values():
            if is_reset(datagram, link.core.peer_reset_tokens):
                self._touched[link.number] = link
                link.core.forgotten()
                return
        self._strangers.forgotten(header, len(datagram), address, now)

    def _accept(
        self, destination: bytes, admission: Admission, address: Address, now: float
    ) -> Link:
        link = self._new_link(dialled=False, address=address, now=now)
        link.core = CoreConnection(
            configuration=self._configuration(is_client=False, server_name=None),
            judge=lambda chain: self._judge(
                link, chain, Usage.CLIENT, self._options.accept_roles, ""
            ),
            sizes=self._options.datagram_sizes,
            reset_token=self._resets.token,
            original_destination_connection_id=admission.original_destination,
            retry_source_connection_id=admission.retry_source,
        )
        link.ticket = admission.ticket
        link.route(destination)
        link.route(link.core.host_cid)
        return link

    def _new_link(self, *, dialled: bool, address: Address, now: float) -> Link:
        number, self._next_number = self._next_number, self._next_number + 1
        link = self._links[number] = Link(
            number,
            dialled=dialled,
            address=address,
            handshake_by=now + self._options.handshake_timeout,
            table=self._routes,
        )
        self._touched[number] = link
        return link

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
        configuration.supported_versions = [VERSION]
        configuration.certificate = options.credentials.certificate
        configuration.certificate_chain = list(options.credentials.chain)
        configuration.private_key = options.credentials.private_key
        configuration.verify_mode = ssl.CERT_NONE  # the judge verifies, for both roles
        return configuration

    def _judge(
        self,
        link: Link,
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
        out = self._strangers.take_answers()
        touched, self._touched = self._touched, {}
        for link in touched.values():
            out += segment(self._datagrams(link, now))
            self._collect(link)
            if link.core.more:
                self._touched[link.number] = link
            self._schedule(link)
        return out

    def _datagrams(self, link: Link, now: float) -> list[tuple[bytes, Any]]:
        for _ in range(2):  # the second time for the close, when the first one failed
            try:
                return link.core.datagrams_to_send(now)
            except Exception as error:  # noqa: BLE001 - see _feed
                self._broken(link, error)
        return []

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
            if link.is_pending and now >= link.handshake_by:
                link.refusal = link.refusal or NO_ANSWER
                link.core.close(error_code=QuicErrorCode.INTERNAL_ERROR, frame_type=0)
            self._tick(link, now)
            self._collect(link)

    def _tick(self, link: Link, now: float) -> None:
        timer = link.core.get_timer()
        if timer is not None and timer <= now:
            try:
                link.core.handle_timer(now)
            except Exception as error:  # noqa: BLE001 - see _feed
                self._broken(link, error)

    def _schedule(self, link: Link) -> None:
        if link.drained:
            return
        timer = link.core.get_timer()
        deadline = float("inf") if timer is None else timer
        if link.is_pending:
            deadline = min(deadline, link.handshake_by)
        if deadline != link.deadline:
            link.deadline = deadline
            heapq.heappush(self._deadlines, (deadline, link.number))
            if len(self._deadlines) > 2 * len(self._links) + 64:  # mostly outdated entries
                self._deadlines = [(each.deadline, each.number) for each in self._links.values()]
                heapq.heapify(self._deadlines)

    # Events

    def events(self) -> list[Event]:
        for link in list(self._touched.values()):
            self._collect(link)
        events, self._events = self._events, []
        return events

    def _collect(self, link: Link) -> None:
        link.collect(self._events)
        if link.connected:
            self._handshake_over(link)
        if link.drained and link.number in self._links:
            self._remove(link)

    def _remove(self, link: Link) -> None:
        link.drained = True
        self._handshake_over(link)  # one that failed counts until here: it costs memory
        link.unroute_all()
        del self._links[link.number]
        self._dialled.pop(link.number, None)
        self._touched.pop(link.number, None)

    def _handshake_over(self, link: Link) -> None:
        if link.ticket is not None:
            self._gate.over(link.ticket)
            link.ticket = None

    def refusals(self) -> list[Refusal]:
        return self._gate.take_refusals()

    # What the shell asks

    def connect(
        self, address: Address, *, roles: Collection[Role], server_name: str, now: float
    ) -> int:
        link = self._new_link(dialled=True, address=address, now=now)
        self._dialled[link.number] = link
        link.core = CoreConnection(
            configuration=self._configuration(is_client=True, server_name=server_name or None),
            judge=lambda chain: self._judge(link, chain, Usage.SERVER, roles, server_name),
            sizes=self._options.datagram_sizes,
            reset_token=self._resets.token,
        )
        link.route(link.core.host_cid)
        link.core.connect(address, now)
        return link.number

    def open_stream(self, connection: int) -> int | None:
        link = self._links[connection]
        core = link.core
        if not core.has_streams_credit:
            core.waits_for_streams = core.lacks_streams = True
            self._touched[connection] = link
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
            self._release(link, record)
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

    def window(self, connection: int, stream: int) -> int:
        link = self._links.get(connection)
        record = link.core.streams.get(stream) if link is not None else None
        return record.window if record is not None else STREAM_WINDOW

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
            self._release(link, record)
        else:
            record.quic.receiver.stop(code)
            self._touch(link, record)

    def _release(self, link: Link, record: StreamRecord) -> None:
        link.core.release_if_done(record)
        self._touched[link.number] = link  # which may let the peer open another

    def _touch(self, link: Link, record: StreamRecord) -> None:
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
        link = self._links[connection]
        address = link.core.get_peer_address()
        return (str(address[0]), int(address[1])) if address is not None else link.address

    def datagram_size(self, connection: int) -> int:
        return self._links[connection].core.path_size.current

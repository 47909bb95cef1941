"""The packet engine made of quinn-proto and rustls: fast, where its extension was built.

``outrelay_native`` has the packets, streams, timers and TLS of all connections of one socket;
here are the port, and who has news, something to send or a deadline. What is decided is in the
modules beside it: who may come in (``native_peers``), what news mean (``native_connection``), who
sends how much (``native_sending``), what ends mean (``native_ends``).

Invariants: after LOST or REFUSED nothing but DRAINED is said of a connection; a panic inside
the extension ends one connection, with a LOST like any other.

Source: engines.md; native/src/lib.rs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from outrelay_native import INTERFACE, NativeEndpoint

from outrelay.lib.errors import ErrorCode
from outrelay.lib.identity.certs import Credentials
from outrelay.lib.identity.uri import Role
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.quic.ends import NO_ANSWER, cut
from outrelay.lib.transport.quic.engine import (
    STREAM_WINDOW,
    EngineOptions,
    Event,
    EventKind,
    Transmit,
)
from outrelay.lib.transport.quic.native_connection import Connection, batch_of
from outrelay.lib.transport.quic.native_ends import End, lost, refused
from outrelay.lib.transport.quic.native_identity import Identity, Limits, sni, unusable
from outrelay.lib.transport.quic.native_peers import Link, Peers
from outrelay.lib.transport.quic.native_timers import Timers
from outrelay.lib.transport.refusal import Refusal

if TYPE_CHECKING:
    from outrelay_native import NativeConnection

EXPECTED_INTERFACE = 3
"""What the extension must say of itself."""

if INTERFACE != EXPECTED_INTERFACE:
    raise ImportError(f"the outrelay-native installed here has interface {INTERFACE}")

_log = get_logger(__name__)


class NativeEngine:
    """See the port, ``engine.Engine``.

    Raises:
        ConfigError: The credentials are not usable here.
    """

    name = "native"
    uses_ecn = True

    def __init__(self, options: EngineOptions) -> None:
        self._peers = Peers(options)
        self._links = self._peers.links
        self._gate = self._peers.gate
        self._events: list[Event] = []
        self._connections: dict[int, Connection] = {}
        self._changed: dict[int, Connection] = {}  # who may have news
        self._to_send: dict[int, Connection] = {}
        self._timers = Timers()
        self._batch = batch_of(options.datagram_sizes[-1])
        try:
            self._core = NativeEndpoint(self._identity(options), Limits(options), self._peers)
        except ValueError as error:
            raise unusable(error) from error

    def show(self, credentials: Credentials) -> None:
        options = replace(self._peers.options, credentials=credentials)
        try:
            self._core.exchange(self._identity(options))
        except ValueError as error:
            raise unusable(error) from error
        self._peers.options = options

    def _identity(self, options: EngineOptions) -> Identity:
        return Identity(options, self._peers.judge)

    # Datagrams

    def receive(
        self, data: memoryview, segment_size: int, address: Address, now: float, ecn: int = 0
    ) -> None:
        if "%" in address[0]:  # of this link only; there is no number for the zone here
            return
        self._peers.handles(address, now)
        size = segment_size or len(data)
        for quic in self._core.receive(bytes(data), size, address, ecn, now):
            self._touch(self._connections.get(quic.number) or self._begin(quic))
        for number, end in self._peers.failures:
            link = self._links[number]
            if end is not None:
                self._lost(link, End(*end))
            self._drained(link)
        self._peers.failures.clear()

    def transmits(self, now: float) -> list[Transmit]:
        transmits, self._peers.answers = self._peers.answers, []
        to_send, self._to_send = self._to_send, {}
        for number, connection in to_send.items():
            batch = connection.transmit(now, self._batch)
            self._changed[number] = connection
            if batch is not None:
                host, port, data, segment_size, ecn = batch
                transmits.append(Transmit((host, port), [data], segment_size, ecn))
                self._to_send[number] = connection
        return transmits

    # Time

    def next_deadline(self) -> float | None:
        self._collect()
        deadline = self._timers.first()
        handshake = next(iter(self._peers.pending.values()), None)
        if deadline is None or handshake is None:
            return handshake if deadline is None else deadline
        return min(deadline, handshake)

    def handle_timeout(self, now: float) -> None:
        for number in self._timers.take(now):
            connection = self._connections[number]
            connection.quic.expire(now)
            self._touch(connection)
        late = [number for number, by in self._peers.pending.items() if by <= now]
        for number in late:
            self._links[number].refusal = self._links[number].refusal or NO_ANSWER
            self.close(number, ErrorCode.NONE, "")

    # Events

    def events(self) -> list[Event]:
        self._collect()
        events = self._events.copy()
        self._events.clear()
        return events

    def refusals(self) -> list[Refusal]:
        return self._gate.take_refusals()

    def _collect(self) -> None:
        changed, self._changed = self._changed, {}
        for connection in changed.values():
            self._poll(connection)

    def _poll(self, connection: Connection) -> None:
        number, link = connection.number, connection.link
        if number not in self._connections:
            return
        connection.sending.let_hold()
        news, end, deadline, is_gone = connection.quic.poll(self._core)
        connection.take(news)
        if link.connected and link.number in self._peers.pending:
            self._peers.settled(link)
        if end is not None and not link.ended:
            self._lost(link, End(*end))
        self._timers.set(number, deadline)
        if is_gone:
            self._drained(link)
        elif news:
            self._to_send[number] = connection

    def _lost(self, link: Link, end: End) -> None:
        if end.is_fault:
            _log.warning("connection ended by a fault in the QUIC engine", error=end.reason)
        self._events.append(lost(link, end) if link.connected else refused(link, end))
        link.ended = True
        self._peers.pending.pop(link.number, None)

    def _drained(self, link: Link) -> None:
        if link.ended:  # else it was no handshake at all, and counted as noise
            self._events.append(Event(EventKind.DRAINED, link.number))
        self._peers.forget(link)
        self._timers.set(link.number, None)
        self._connections.pop(link.number, None)
        self._to_send.pop(link.number, None)

    # What the shell asks

    def connect(
        self, address: Address, *, roles: Collection[Role], server_name: str, now: float
    ) -> int:
        link = self._peers.dial(address, roles=roles, server_name=server_name, now=now)
        try:
            quic = self._core.connect(link.number, address, sni(server_name), now)
        except ValueError as error:  # no address that packets could go to
            link.refusal = str(error)
            self._lost(link, End("local", 0, ""))
            self._drained(link)
        else:
            self._touch(self._begin(quic))
        return link.number

    def _begin(self, quic: NativeConnection) -> Connection:
        connection = Connection(quic, self._links[quic.number], self._events)
        self._connections[quic.number] = connection
        return connection

    def _touch(self, connection: Connection) -> Connection:
        """Something is done to it: it may have news, and something to send."""
        number = connection.number
        self._changed[number] = self._to_send[number] = connection
        return connection

    def open_stream(self, connection: int) -> int | None:
        return self._touch(self._connections[connection]).open_stream()

    def read(self, connection: int, stream: int, limit: int) -> tuple[bytes, bool]:
        return self._touch(self._connections[connection]).read(stream, limit)

    def write(self, connection: int, stream: int, data: memoryview) -> int:
        return self._touch(self._connections[connection]).sending.write(stream, data)

    def unsent(self, connection: int, stream: int) -> int:
        known = self._connections.get(connection)
        return known.sending.unsent(stream) if known else 0

    def window(self, connection: int, stream: int) -> int:
        return STREAM_WINDOW  # of every stream, always

    def finish(self, connection: int, stream: int) -> None:
        self._touch(self._connections[connection]).sending.finish(stream)

    def reset(self, connection: int, stream: int, code: int) -> None:
        self._touch(self._connections[connection]).reset(stream, code)

    def stop_sending(self, connection: int, stream: int, code: int) -> None:
        self._touch(self._connections[connection]).stop_sending(stream, code)

    def ping(self, connection: int) -> None:
        self._touch(self._connections[connection]).quic.ping()

    def close(self, connection: int, code: int, reason: str) -> None:
        known = self._connections.get(connection)
        if known is None or known.link.ended:
            return
        reason = cut(reason)
        self._touch(known).close(code, reason)
        if known.link.connected:
            self._events.append(Event(EventKind.LOST, connection, code=code, reason=reason))
        else:
            self._events.append(refused(known.link, End("local", code, reason)))
        known.link.ended = True
        self._peers.pending.pop(connection, None)

    def address(self, connection: int) -> Address:
        host, port, _ = self._connections[connection].quic.path()
        return host, port

    def datagram_size(self, connection: int) -> int:
        return self._connections[connection].quic.path()[2]

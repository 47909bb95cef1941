"""The packet engine made of quinn-proto and rustls: fast, where its extension was built.

``outrelay_native`` has the packets, streams, timers and TLS of all connections of one socket;
here are the port, the handshakes' deadlines, and what ends mean. Who may come in is asked of
``native_peers``.

Invariants: after LOST or REFUSED nothing but DRAINED is said of a connection; a panic inside
the extension ends one connection, with a LOST like any other.

Source: engines.md; native/src/lib.rs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import IntEnum
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from outrelay_native import INTERFACE, NativeEndpoint

from outrelay.lib.errors import ConfigError, ErrorCode
from outrelay.lib.identity.certs import Credentials
from outrelay.lib.identity.uri import Role
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.transport.carrier import WRITE_BUFFER, Address
from outrelay.lib.transport.quic.ends import (
    FORGOTTEN,
    IDLE_TIMEOUT,
    NO_ANSWER,
    cause_of,
    cut,
    is_final,
    transport_code,
)
from outrelay.lib.transport.quic.engine import (
    FLIGHT_MAX,
    STREAM_WINDOW,
    STREAMS,
    EngineOptions,
    Event,
    EventKind,
    Transmit,
)
from outrelay.lib.transport.quic.native_peers import Link, Peers
from outrelay.lib.transport.quic.reset import reset_key
from outrelay.lib.transport.refusal import Cause, Refusal

if TYPE_CHECKING:
    from outrelay_native import Bundle

EXPECTED_INTERFACE = 1
"""What the extension must say of itself."""

if INTERFACE != EXPECTED_INTERFACE:
    raise ImportError(f"the outrelay-native installed here has interface {INTERFACE}")

_log = get_logger(__name__)

_KINDS = {int(kind): kind for kind in EventKind}
_NO_NAME = "0.0.0.0"  # noqa: S104 - an address is no server name: none is sent
_JUDGED = "invalid peer certificate: Other(OtherError("
"""How a peer with this engine wraps the words of its judge."""


_IN_OUR_WORDS = {
    0x100 + 116: "a client certificate is required",
    0x100 + 120: "no common ALPN protocol",
}
"""What rustls says with these alerts, but as the other engine says it."""


class _Origin(IntEnum):
    """Who or what ended a connection, as the extension numbers it."""

    APPLICATION = 0
    PEER = 1
    LOCAL = 2
    SILENCE = 3
    RESTART = 4
    FAULT = 5


class _End(NamedTuple):
    origin: _Origin
    code: int
    reason: str

    @property
    def by_peer(self) -> bool:
        return self.origin in (_Origin.APPLICATION, _Origin.PEER)

    @property
    def timed_out(self) -> bool:
        return self.origin in (_Origin.SILENCE, _Origin.RESTART)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """The bounds of the port, for the extension."""

    idle_timeout: float
    datagram_first: int
    datagram_last: int
    stream_window: int = STREAM_WINDOW
    streams: int = STREAMS
    write_buffer: int = WRITE_BUFFER
    flight_max: int = FLIGHT_MAX


class NativeEngine:
    """See the port, ``engine.Engine``.

    Raises:
        ConfigError: The credentials are not usable here.
    """

    name = "native"

    def __init__(self, options: EngineOptions) -> None:
        self._peers = Peers(options)
        self._links = self._peers.links
        self._gate = self._peers.gate
        self._events: list[Event] = []
        try:
            self._core = NativeEndpoint(
                _bundle(options),
                reset_key(options.credentials),
                bool(options.accept_roles),
                _Limits(
                    idle_timeout=options.idle_timeout,
                    datagram_first=options.datagram_sizes[0],
                    datagram_last=options.datagram_sizes[-1],
                ),
                self._peers.judge,
                self._peers.admit,
            )
        except ValueError as error:
            raise _unusable(error) from error

    def show(self, credentials: Credentials) -> None:
        options = replace(self._peers.options, credentials=credentials)
        try:
            self._core.exchange(_bundle(options))
        except ValueError as error:
            raise _unusable(error) from error
        self._peers.options = options

    # Datagrams

    def receive(self, data: memoryview, segment_size: int, address: Address, now: float) -> None:
        self._peers.now = now
        size = segment_size or len(data)
        host, port = address
        if "%" in host:  # of this link only; there is no number for the zone here
            return
        for start in self._core.receive(data, size, host, port, now):
            self._peers.wasted(bytes(data[start : start + size]), address)

    def transmits(self, now: float) -> list[Transmit]:
        return [
            Transmit((host, port), [data], segment_size)
            for host, port, data, segment_size in self._core.transmits(now)
        ]

    # Time

    def next_deadline(self) -> float | None:
        deadline = self._core.next_deadline()
        handshake = next(iter(self._peers.pending.values()), None)
        if deadline is None or handshake is None:
            return handshake if deadline is None else deadline
        return min(deadline, handshake)

    def handle_timeout(self, now: float) -> None:
        self._core.handle_timeout(now)
        late = [number for number, by in self._peers.pending.items() if by <= now]
        for number in late:
            self._links[number].refusal = self._links[number].refusal or NO_ANSWER
            self.close(number, ErrorCode.NONE, "")

    # Events

    def events(self) -> list[Event]:
        for kind, number, stream, code, origin, reason in self._core.events():
            link = self._links[number]
            if kind == EventKind.DRAINED:
                self._drained(link)
            elif link.ended:
                pass
            elif kind == EventKind.CONNECTED:
                self._connected(link)
            elif kind == EventKind.LOST:
                self._lost(link, _End(_Origin(origin), code, reason))
            else:
                self._events.append(Event(_KINDS[kind], number, stream, code))
        events, self._events = self._events, []
        return events

    def _connected(self, link: Link) -> None:
        link.connected = True
        self._peers.settled(link)
        self._events.append(Event(EventKind.CONNECTED, link.number, peer=link.peer))

    def _lost(self, link: Link, end: _End) -> None:
        if end.origin is _Origin.FAULT:
            _log.warning("connection ended by a fault in the QUIC engine", error=end.reason)
        if link.connected:
            self._say_lost(link, end)
        else:
            self._say_refused(link, end)
        link.ended = True
        self._peers.pending.pop(link.number, None)

    def _say_lost(self, link: Link, end: _End) -> None:
        is_ours = end.origin is _Origin.APPLICATION
        code = ErrorCode.NONE if end.timed_out else transport_code(end.code)
        silence = FORGOTTEN if end.origin is _Origin.RESTART else IDLE_TIMEOUT
        self._events.append(
            Event(
                EventKind.LOST,
                link.number,
                code=end.code if is_ours else code,
                reason=silence if end.timed_out else end.reason,
                by_peer=end.by_peer,
                timed_out=end.timed_out,
            )
        )

    def _say_refused(self, link: Link, end: _End) -> None:
        self._events.append(
            Event(
                EventKind.REFUSED,
                link.number,
                reason=link.refusal or _refusal_text(end),
                address=link.address,
                by_peer=end.by_peer,
                final=is_final(end.code),
                cause=_refusal_cause(link, end),
            )
        )

    def _drained(self, link: Link) -> None:
        if link.ended:  # else it was no handshake at all, and counted as noise
            self._events.append(Event(EventKind.DRAINED, link.number))
        self._peers.forget(link)

    def refusals(self) -> list[Refusal]:
        return self._gate.take_refusals()

    # What the shell asks

    def connect(
        self, address: Address, *, roles: Collection[Role], server_name: str, now: float
    ) -> int:
        link = self._peers.dial(address, roles=roles, server_name=server_name, now=now)
        host, port = address
        try:
            self._core.connect(link.number, host, port, _sni(server_name), now)
        except ValueError as error:  # no address that packets could go to
            link.refusal = str(error)
            self._lost(link, _End(_Origin.LOCAL, 0, ""))
            self._drained(link)
        return link.number

    def open_stream(self, connection: int) -> int | None:
        return self._core.open_stream(connection)

    def read(self, connection: int, stream: int, limit: int) -> tuple[bytes, bool]:
        return self._core.read(connection, stream, limit)

    def write(self, connection: int, stream: int, data: memoryview) -> int:
        if len(data) > WRITE_BUFFER:  # the extension copies what it is given
            data = data[: WRITE_BUFFER + 1]  # it has to see that there is more
        return self._core.write(connection, stream, data)

    def unsent(self, connection: int, stream: int) -> int:
        return self._core.unsent(connection, stream)

    def finish(self, connection: int, stream: int) -> None:
        self._core.finish(connection, stream)

    def reset(self, connection: int, stream: int, code: int) -> None:
        self._core.reset(connection, stream, code)

    def stop_sending(self, connection: int, stream: int, code: int) -> None:
        self._core.stop_sending(connection, stream, code)

    def ping(self, connection: int) -> None:
        self._core.ping(connection)

    def close(self, connection: int, code: int, reason: str) -> None:
        link = self._links.get(connection)
        if link is None or link.ended:
            return
        reason = cut(reason)
        self._core.close(connection, code, reason.encode())
        end = _End(_Origin.APPLICATION, code, reason)
        if link.connected:
            self._events.append(Event(EventKind.LOST, connection, code=code, reason=reason))
        else:
            self._say_refused(link, end._replace(origin=_Origin.LOCAL))
        link.ended = True
        self._peers.pending.pop(connection, None)

    def address(self, connection: int) -> Address:
        return self._core.address(connection)

    def datagram_size(self, connection: int) -> int:
        return self._core.datagram_size(connection)


def _bundle(options: EngineOptions) -> Bundle:
    credentials = options.credentials
    key = credentials.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    chain = (credentials.certificate, *credentials.chain)
    return (
        [each.public_bytes(Encoding.DER) for each in chain],
        key,
        [each.public_bytes(Encoding.DER) for each in options.trust.certificates],
        options.alpn,
    )


def _unusable(error: ValueError) -> ConfigError:
    return ConfigError(
        "the native QUIC engine", f"cannot use these certificates: {error}", "--quic-engine aioquic"
    )


def _sni(server_name: str) -> str:
    """What the TLS client may ask for; the judge compares the name itself."""
    try:
        ip_address(server_name)
    except ValueError:
        is_name = server_name.isascii() and server_name.replace(".", "").replace("-", "").isalnum()
        return server_name if is_name else _NO_NAME
    return _NO_NAME


def _refusal_text(end: _End) -> str:
    if end.timed_out:
        return "no answer"
    reason = _IN_OUR_WORDS.get(end.code, end.reason)
    if reason.startswith(_JUDGED):
        reason = "certificate refused: " + reason.removeprefix(_JUDGED).strip(")").strip('"')
    who = "refused by the peer: " if end.by_peer else ""
    return who + (reason or f"handshake failed (0x{end.code:x})")


def _refusal_cause(link: Link, end: _End) -> Cause:
    if end.by_peer:
        return Cause.PEER
    if end.timed_out or link.refusal == NO_ANSWER:
        return Cause.TIMEOUT
    return cause_of(end.code)

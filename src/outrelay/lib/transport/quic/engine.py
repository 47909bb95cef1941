"""The port between the QUIC carrier's asyncio shell and a packet engine.

An *engine* is a sans-IO object that turns datagrams into events and back for every
connection of one UDP socket, dialled and accepted alike. It owns the QUIC state machines,
TLS, flow-control windows and congestion control; it never sees a socket, a clock or a
task. Connections and streams are small integers; ``now`` is seconds of a monotonic clock
of the caller's choice, passed in, so that tests run in virtual time.

Rules for both sides:

- After any call that may produce packets the shell calls ``transmits`` until it returns
  nothing, then ``next_deadline``. After ``receive``, ``handle_timeout`` and ``transmits``
  it drains ``events``, and ``refusals``.
- Reading gives stream credit back; nothing else does. Connection credit is given on receipt.
- ``write`` takes what fits below WRITE_BUFFER unsent bytes; when it took less than it was
  given, a WRITABLE follows as soon as there is room again.
- Events for a connection end with LOST, then DRAINED; afterwards its number may be reused.
  Streams need no event of their own then.
- Peers are verified before CONNECTED: whoever fails is REFUSED and never becomes visible.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol

from outrelay.lib.identity.certs import Credentials, Trust
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.carrier import Address, Peer
from outrelay.lib.transport.refusal import Cause, Refusal

STREAM_WINDOW = 1 << 20
"""Initial credit of a stream, bytes."""

STREAM_WINDOW_MAX = 16 << 20
"""What the credit of a stream grows to, with the bandwidth-delay product."""

GROWTH_MAX = 64 << 20
"""What the credit of all streams of a connection may have grown by together."""

FLIGHT_MAX = 32 << 20
"""Bytes on the way to a peer at most: more than this is a peer that takes us for its memory."""

CONNECTION_WINDOW = 16 << 20
"""Initial credit of a connection; it grows on receipt, so no stream can block another."""

STREAMS = 1024
"""Streams a peer may have open at once."""

IDLE_TIMEOUT = 10.0
HANDSHAKE_TIMEOUT = 10.0
DATAGRAM_SIZES = (1200, 1280, 1400, 1452)
"""Where datagrams start, and the sizes probed to raise them."""


class EventKind(IntEnum):
    """What happened; the comment says which fields of the event carry more."""

    CONNECTED = 0  # peer
    STREAM_OPENED = 1  # stream
    READABLE = 2  # stream
    WRITABLE = 3  # stream
    STOPPED = 4  # stream, code: the peer reads no more
    RESET = 5  # stream, code: the peer sends no more
    FINISHED = 6  # stream: the peer has acknowledged everything up to our FIN, or we gave it up
    STREAMS_AVAILABLE = 7
    REFUSED = 8  # cause, reason, final: a handshake failed; address says whose
    LOST = 9  # code, reason, by_peer, timed_out
    DRAINED = 10


class Event(NamedTuple):
    """One thing that happened to a connection; see EventKind for the fields in use."""

    kind: EventKind
    connection: int
    stream: int = -1
    code: int = 0
    reason: str = ""
    peer: Peer | None = None
    address: Address | None = None
    by_peer: bool = False
    timed_out: bool = False
    final: bool = False
    cause: Cause = Cause.HANDSHAKE


class Transmit(NamedTuple):
    """Datagrams for one address: all of ``segment_size`` bytes, the last may be shorter.

    The buffers, one after the other, are the bytes to hand to a single UDP_SEGMENT send. Each
    holds one datagram or several; only the last one's last may be short.
    """

    address: Address
    buffers: Sequence[bytes]
    segment_size: int
    ecn: int = 0
    """The ECN codepoint to send them with."""

    @property
    def is_batch(self) -> bool:
        """Whether this is more than one datagram."""
        return len(self.buffers) > 1 or len(self.buffers[0]) > self.segment_size

    def datagrams(self) -> Iterator[bytes]:
        """One after the other."""
        for buffer in self.buffers:
            for start in range(0, len(buffer), self.segment_size):
                yield buffer[start : start + self.segment_size]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What an engine is made with."""

    credentials: Credentials
    trust: Trust
    accept_roles: frozenset[Role] = frozenset()
    """Roles whose certificates may dial us; empty: nobody may."""
    alpn: str = "orp/1"
    idle_timeout: float = IDLE_TIMEOUT
    handshake_timeout: float = HANDSHAKE_TIMEOUT
    retry_above: int = 64
    """Handshakes under way above which new diallers must prove their address first."""
    handshakes_max: int = 1024
    """Handshakes under way above which new ones are dropped."""
    source_handshakes: int = 64
    """Handshakes under way of one source, as ``budgets`` has it."""
    source_rate: float = 50.0
    """Handshakes a second of one source, in the long run."""
    source_burst: int = 200
    """Handshakes of one source at once."""
    datagram_sizes: tuple[int, ...] = field(default=DATAGRAM_SIZES)


class Engine(Protocol):
    """All QUIC connections of one socket; see the module for the rules."""

    name: str
    uses_ecn: bool
    """Whether it marks what it sends, and wants to know how what it receives was marked."""

    def show(self, credentials: Credentials) -> None:
        """Show ``credentials`` from the next handshake on.

        Raises:
            ConfigError: They are not usable here; the old ones stay.
        """

    def receive(
        self, data: memoryview, segment_size: int, address: Address, now: float, ecn: int = 0
    ) -> None:
        """Take one batch: datagrams of ``segment_size`` bytes, the last may be shorter.

        ``ecn`` is the ECN codepoint they came with.
        """

    def transmits(self, now: float) -> list[Transmit]:
        """Datagrams to send now, at most one burst per connection; call again until empty."""

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` must be called, unless something else happens before."""

    def handle_timeout(self, now: float) -> None:
        """Act on every deadline that has passed."""

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""

    def refusals(self) -> list[Refusal]:
        """Whom it turned away since the last call before there was a connection."""

    def connect(
        self, address: Address, *, roles: Collection[Role], server_name: str, now: float
    ) -> int:
        """Begin a handshake as client; CONNECTED or REFUSED follows."""

    def open_stream(self, connection: int) -> int | None:
        """A new bidirectional stream, or None without credit (STREAMS_AVAILABLE follows)."""

    def read(self, connection: int, stream: int, limit: int) -> tuple[bytes, bool]:
        """Bytes that have arrived, and whether they are the last; ``(b"", False)``: none yet."""

    def write(self, connection: int, stream: int, data: memoryview) -> int:
        """Queue a prefix of ``data``; returns its length."""

    def unsent(self, connection: int, stream: int) -> int:
        """Bytes queued that no packet has carried yet."""

    def window(self, connection: int, stream: int) -> int:
        """Bytes that the peer may have wait for our reads."""

    def finish(self, connection: int, stream: int) -> None:
        """End our direction after what was written."""

    def reset(self, connection: int, stream: int, code: int) -> None:
        """Abandon our direction."""

    def stop_sending(self, connection: int, stream: int, code: int) -> None:
        """Drop what was not read and ask the peer to stop."""

    def ping(self, connection: int) -> None:
        """Have the peer answer: keeps the path and both idle timers alive."""

    def close(self, connection: int, code: int, reason: str) -> None:
        """Tell the peer and end; LOST follows at once, DRAINED later."""

    def address(self, connection: int) -> Address:
        """Where the peer's packets come from now."""

    def datagram_size(self, connection: int) -> int:
        """The largest datagrams its path is known to carry, bytes of UDP payload."""

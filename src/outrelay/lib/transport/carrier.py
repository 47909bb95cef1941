"""The ports of the transport: what everything above it sees of a carrier.

Words: a *carrier* moves streams between two processes (QUIC, TLS over TCP, or memory in
tests). A *connection* is mutually authenticated: ``peer`` is who the other side's
certificate says it is, verified before anybody sees the connection. A *stream* is two
independent directions of bytes.

Invariants every carrier keeps (one contract suite tests them all):

- What is buffered for a stream is bounded. ``write`` waits while more than
  ``WRITE_BUFFER`` bytes are unsent; a reader that stops makes the far writer wait, and
  nothing else on the connection.
- A byte is delivered once, in order, or the read fails: truncation never looks like an end.
- Cancelling a read or a write loses no byte that was not yet handed over: a cancelled
  read took nothing; a cancelled write has written a prefix (``Stream.unsent`` says nothing
  about it), so the caller ends the stream rather than go on.
- One reader and one writer at a time; a second one is a LocalProtocolError.
- Every waiting call of a connection that ends raises ``Closed``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from outrelay.lib.errors import Closed, ErrorCode
from outrelay.lib.identity.certs import Credentials
from outrelay.lib.identity.uri import Identity, Role

Address = tuple[str, int]
"""Numeric host and port, as the socket module has it."""

WRITE_BUFFER = 256 * 1024
"""Unsent bytes of a stream above which its writer waits."""

READ_SIZE = 256 * 1024
"""A read size that suits every carrier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end, verified.

    Args:
        identity: What its certificate says.
        expires: When that ends, seconds since the epoch.
    """

    identity: Identity
    expires: float


class Stream(Protocol):
    """Two directions of bytes, ended independently."""

    @property
    def id(self) -> int:
        """The carrier's number of the stream, unique within its connection."""

    @property
    def unsent(self) -> int:
        """Bytes written that no packet has carried yet."""

    @property
    def window(self) -> int:
        """Bytes that the peer may have wait here for our reads, at most."""

    async def read(self, limit: int = READ_SIZE) -> bytes:
        """Up to ``limit`` bytes, as soon as there are any; ``b""`` at the end.

        Raises:
            Reset: The peer reset its direction, or we stopped it.
            Closed: The connection is gone.
        """

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue all of ``data``; returns when the unsent bytes are within the bound.

        The caller may reuse the buffer when it returns.

        Raises:
            Reset: The peer stopped reading, or we reset the stream.
            Closed: The connection is gone.
            LocalProtocolError: The direction was finished before.
        """

    def finish(self) -> None:
        """End our direction after what was written. Idempotent; the other stays open."""

    def reset(self, code: ErrorCode) -> None:
        """Abandon our direction: the peer's reads raise ``Reset(code)``. Idempotent.

        Does nothing once the direction was finished and everything is acknowledged.
        """

    def stop(self, code: ErrorCode) -> None:
        """Ask the peer to stop sending: its writes raise ``Reset(code)``. Idempotent.

        Bytes not yet read are dropped; our reads raise ``Reset(code)``.
        """

    def explain(self, code: ErrorCode) -> None:
        """The peer has said elsewhere with which code it will end the stream.

        Where the carrier brings a code, that one counts.
        """

    async def wait_finished(self) -> None:
        """Return when the peer has acknowledged everything up to our ``finish``.

        Raises:
            Reset: Our direction was reset or stopped instead.
            Closed: The connection is gone.
        """


class Connection(Protocol):
    """An authenticated connection that carries streams."""

    @property
    def carrier(self) -> str:
        """``"quic"``, ``"tcp"`` or ``"memory"``."""

    @property
    def peer(self) -> Identity:
        """Who the peer's certificate says it is."""

    @property
    def peer_expires(self) -> float:
        """When the peer's certificate ends, seconds since the epoch."""

    @property
    def tells_codes(self) -> bool:
        """Whether the peer learns with which codes we give streams up; else say it elsewhere."""

    @property
    def peer_address(self) -> Address:
        """Where its packets come from now; it changes when the peer moves."""

    @property
    def local_address(self) -> Address:
        """Our end."""

    async def open_stream(self) -> Stream:
        """A new stream, as soon as the peer gives credit for one.

        Raises:
            Closed: The connection is gone.
        """

    async def accept_stream(self) -> Stream:
        """The next stream the peer opened.

        Raises:
            Closed: The connection is gone.
        """

    def close(self, code: ErrorCode = ErrorCode.NONE, reason: str = "") -> None:
        """Tell the peer and end every stream at once. Idempotent."""

    async def wait_closed(self) -> Closed:
        """How the connection ended, once it has and its last packet is sent."""


class Listener(Protocol):
    """Accepts connections whose peers passed verification."""

    @property
    def address(self) -> Address:
        """Where it listens, with the port the system chose."""

    def show(self, credentials: Credentials) -> None:
        """Show ``credentials`` from the next handshake on.

        Raises:
            IdentityError: They cannot be used.
        """

    async def accept(self) -> Connection:
        """The next verified connection.

        Raises:
            Closed: The listener is closed.
        """

    async def close(self) -> None:
        """Stop accepting, close what it accepted, give the socket back."""


class Dialer(Protocol):
    """Makes connections."""

    async def dial(
        self,
        address: Address,
        *,
        roles: Collection[Role],
        server_name: str = "localhost",
    ) -> Connection:
        """A connection to ``address``, verified and confirmed by the other side.

        Args:
            address: Numeric host and port.
            roles: Roles the peer's certificate may have.
            server_name: DNS name its certificate must hold; empty: any.

        Raises:
            Refused: Nobody answered, or one side refused the other; ``reason`` says which.
        """

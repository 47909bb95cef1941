"""quinn-proto and rustls as a sans-IO engine; see src/lib.rs."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

INTERFACE: Final[int]

News = tuple[str, int, int]
"""What happened, to which stream, and the code: connected, opened, readable, reset, writable,
finished, stopped or available."""

End = tuple[str, int, str]
"""How a connection ended, the code and the reason: by the peer's ``application``, by the
``peer``'s QUIC or our ``local`` one, by ``silence``, by a ``restart`` of the
peer, by a ``fault``."""

Batch = tuple[str, int, bytes, int, int]
"""Host, port, datagrams, the size of each but the last, and their ECN codepoint."""

class Limits(Protocol):
    """The port's bounds: bytes, and seconds for the timeout; and the secret of resets."""

    idle_timeout: float
    stream_window: int
    streams: int
    datagram_first: int
    datagram_last: int
    reset_key: bytes

class Identity(Protocol):
    """Whom we trust and how we prove who we are: DER, leaf first; the key is PKCS #8."""

    chain: list[bytes]
    key: bytes
    authorities: list[bytes]
    alpn: str
    listens: bool
    judge: Callable[[int, Sequence[bytes]], str]
    """What is wrong with the certificates of the peer of a connection; empty: nothing."""

class Peers(Protocol):
    """Asked and told while ``receive`` handles datagrams."""

    def admit(self, proven: bool, /) -> int | None:
        """The number of the connection that somebody may begin; 0: it must prove its address."""
    def failed(self, number: int, end: End | None, /) -> None:
        """Nothing came of that; without an end, it was no handshake."""
    def answer(self, datagram: bytes, /) -> None:
        """To be sent to where the datagrams came from."""
    def wasted(self, datagram: bytes, /) -> None:
        """It was for nobody."""

class NativeConnection:
    """One connection; numbers of streams and codes that are too large are as unknown ones."""

    number: int

    def poll(
        self, endpoint: NativeEndpoint
    ) -> tuple[list[News], End | None, float | None, bool]: ...
    def is_accepted(self) -> bool: ...
    def transmit(self, now: float, most: int) -> Batch | None: ...
    def expire(self, now: float) -> None: ...
    def close(self, code: int, reason: bytes, now: float) -> None: ...
    def ping(self) -> None: ...
    def update_keys(self) -> None: ...
    def path(self) -> tuple[str, int, int]: ...
    def let_hold(self, ahead: int, most: int) -> None: ...
    def open_stream(self) -> int | None: ...
    def allow_streams(self, count: int) -> tuple[int, int, bool]:
        """How many the peer has open, in how many of both sides we may have to send, and whether
        the peer has ever said that it lacks more."""

    def write(self, stream: int, data: bytes, priority: int) -> int | None: ...
    def finish(self, stream: int) -> None: ...
    def reset(self, stream: int, code: int) -> bool: ...
    def stop_sending(self, stream: int, code: int) -> None: ...
    def read(self, stream: int, limit: int) -> tuple[bytes, bool, int | None]:
        """Bytes that have arrived, whether they are the last, and the code of a reset after them.

        Raises:
            KeyError: There is no such stream (any more).
        """

class NativeEndpoint:
    """All connections of one socket.

    Raises:
        ValueError: The credentials or an address are not usable.
    """

    def __init__(self, identity: Identity, limits: Limits, peers: Peers) -> None: ...
    def exchange(self, identity: Identity) -> None: ...
    def connect(
        self, number: int, to: tuple[str, int], name: str, now: float
    ) -> NativeConnection: ...
    def receive(
        self, data: bytes, segment: int, sender: tuple[str, int], ecn: int, now: float
    ) -> list[NativeConnection]: ...

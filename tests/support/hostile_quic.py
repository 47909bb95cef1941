"""QUIC peers that do what our own endpoint would never do; the only other user of aioquic.

``RawPeer`` is one aioquic connection, client or server, on a socket of its own, with
whatever configuration a test wants and nothing verified. ``initial`` makes first packets of
any TLS bytes, valid as QUIC and cheap enough to make ten thousand of.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicPacketType,
    QuicProtocolVersion,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicPacketBuilder

from outrelay.lib.identity.certs import Credentials
from outrelay.lib.transport.quic.engine import STREAM_WINDOW, STREAMS
from tests.support.impair import Address, UdpPort

ALPN = "orp/1"
INITIAL_SIZE = 1200
_LIMITLESS = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a raw peer's handshake ended.

    Args:
        confirmed: Both sides finished it.
        alert: The TLS alert of the CONNECTION_CLOSE; None when there was none.
        reason: Its reason phrase.
    """

    confirmed: bool
    alert: int | None = None
    reason: str = ""


class RawPeer:
    """One aioquic connection on its own socket; see ``raw_client`` and ``raw_server``.

    Args:
        host: An address whose host the socket binds.
        configuration: aioquic's; a server's needs a certificate.
    """

    core: QuicConnection

    def __init__(self, host: Address, configuration: QuicConfiguration) -> None:
        self._loop = asyncio.get_running_loop()
        self.port = UdpPort(host, self._received)
        self.outcome: asyncio.Future[Outcome] = self._loop.create_future()
        """Of the handshake."""
        self.ended: asyncio.Future[int] = self._loop.create_future()
        """The error code of the CONNECTION_CLOSE, or of the lack of one."""
        self._configuration = configuration
        self._timer: asyncio.TimerHandle | None = None

    def dial(self, address: Address, *, shows_nothing: bool = False) -> None:
        """Begin a handshake as client; without even an empty certificate if asked to."""
        self.core = QuicConnection(configuration=self._configuration)
        self.core.connect(address, now=self._loop.time())
        if shows_nothing:
            self.core.tls.__class__ = _ShowsNothing
        self.pump()

    def close(self) -> None:
        """Vanish, without a word to the peer."""
        if self._timer:
            self._timer.cancel()
        self.port.close()

    def pump(self) -> None:
        """Send what is due, look what has happened, arm the timer."""
        for data, address in self.core.datagrams_to_send(now=self._loop.time()):
            self.port.send(data, address)
        while (event := self.core.next_event()) is not None:
            if isinstance(event, ConnectionTerminated):
                alert = event.error_code - 0x100 if event.error_code >= 0x100 else None
                self._end(Outcome(confirmed=False, alert=alert, reason=event.reason_phrase))
                self.ended.set_result(event.error_code)
        if self.core._handshake_confirmed:
            self._end(Outcome(confirmed=True))
        if self._timer:
            self._timer.cancel()
        when = self.core.get_timer()
        self._timer = self._loop.call_at(when, self._due) if when is not None else None

    def _received(self, data: bytes, sender: Address) -> None:
        if not hasattr(self, "core"):
            self.core = QuicConnection(
                configuration=self._configuration,
                original_destination_connection_id=data[6 : 6 + data[5]],
            )
        self.core.receive_datagram(data, sender, now=self._loop.time())
        self.pump()

    def _due(self) -> None:
        self.core.handle_timer(now=self._loop.time())
        self.pump()

    def _end(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class Prober:
    """A socket that sends single datagrams and keeps what comes back.

    Args:
        address: Where it sends to.
        source: The host it sends from; by default that of ``address``.
    """

    def __init__(self, address: Address, *, source: str = "") -> None:
        self.replies: list[bytes] = []
        self._port = UdpPort((source or address[0], 0), self._received)
        self._target = address
        self._changed = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._port.close()

    @property
    def address(self) -> Address:
        """Where it sends from."""
        return self._port.address

    def send(self, data: bytes) -> None:
        """Send one datagram."""
        self._port.send(data, self._target)

    async def reply(self) -> bytes:
        """The next datagram that comes back, also one that has come before."""
        while not self.replies:
            self._changed.clear()
            await self._changed.wait()
        return self.replies.pop(0)

    def _received(self, data: bytes, _: Address) -> None:
        self.replies.append(data)
        self._changed.set()


class _ShowsNothing(tls.Context):
    """A client that goes on as if it had not been asked for a certificate."""

    def _client_handle_certificate_request(self, input_buf: Buffer) -> None:
        super()._client_handle_certificate_request(input_buf)
        self._certificate_request = None


@asynccontextmanager
async def raw_client(
    address: Address,
    *,
    credentials: Credentials | None = None,
    alpn: Sequence[str] = (ALPN,),
    shows_nothing: bool = False,
) -> AsyncIterator[RawPeer]:
    """A client without scruples, whose handshake with ``address`` is over, either way.

    Args:
        address: A listener.
        credentials: What it shows; None: no certificate.
        alpn: What it offers.
        shows_nothing: Leave the certificate message out instead of sending an empty one.
    """
    peer = RawPeer(address, _configuration(credentials, alpn, is_client=True))
    try:
        peer.dial(address, shows_nothing=shows_nothing)
        await peer.outcome
        yield peer
    finally:
        peer.close()


@asynccontextmanager
async def raw_server(
    credentials: Credentials, *, alpn: Sequence[str] = (ALPN,)
) -> AsyncIterator[RawPeer]:
    """A server for one client, of which it asks no certificate."""
    peer = RawPeer(("127.0.0.1", 0), _configuration(credentials, alpn, is_client=False))
    try:
        yield peer
    finally:
        peer.close()


def initial(
    crypto: bytes,
    *,
    destination: bytes = b"",
    number: int = 0,
    offset: int = 0,
    token: bytes = b"",
    source: bytes = b"",
) -> bytes:
    """A client's Initial of full size that carries ``crypto``, whatever that is.

    Args:
        crypto: Bytes of the TLS handshake, or of none; at most 1000.
        destination: The connection id it names; random by default.
        number: Its packet number.
        offset: Where in the handshake the bytes belong.
        token: Proof of the address, from a Retry.
        source: The sender's own connection id; random by default.
    """
    destination = destination or os.urandom(8)
    keys = CryptoPair()
    keys.setup_initial(cid=destination, is_client=True, version=QuicProtocolVersion.VERSION_1)
    builder = QuicPacketBuilder(
        host_cid=source or os.urandom(8),
        peer_cid=destination,
        version=QuicProtocolVersion.VERSION_1,
        is_client=True,
        max_datagram_size=INITIAL_SIZE,
        packet_number=number,
        peer_token=token,
    )
    builder.start_packet(QuicPacketType.INITIAL, keys)
    frame = builder.start_frame(QuicFrameType.CRYPTO, capacity=16)
    frame.push_uint_var(offset)
    frame.push_uint16(len(crypto) | 0x4000)
    frame.push_bytes(crypto)
    datagrams, _ = builder.flush()
    return bytes(datagrams[0])


def is_retry(datagram: bytes) -> bool:
    """Whether a datagram is a Retry of QUIC version 1."""
    return datagram[0] >> 4 == 0b1111


class Hello:
    """A genuine client's first message, for any number of first packets."""

    def __init__(self) -> None:
        core = QuicConnection(configuration=_configuration(None, (ALPN,), is_client=True))
        core.connect(("127.0.0.1", 1), now=0.0)
        self.crypto = bytes(core._crypto_streams[tls.Epoch.INITIAL].sender._buffer)
        self.source = core.host_cid
        """The connection id that the message, too, says it comes from."""

    def initial(self) -> bytes:
        """The first packet of another connection."""
        return initial(self.crypto, source=self.source)

    def after(self, retry: bytes) -> bytes:
        """The Initial that answers a Retry."""
        header = pull_quic_header(Buffer(data=retry), host_cid_length=8)
        return initial(
            self.crypto, destination=header.source_cid, token=header.token, source=self.source
        )


def tls12_client_hello() -> bytes:
    """A ClientHello of a client that speaks nothing newer than TLS 1.2."""
    body = b"\x03\x03" + bytes(range(32)) + b"\x00"  # version, random, no session id
    body += b"\x00\x04\xc0\x2b\xc0\x2f"  # ECDHE with AES-128-GCM, ECDSA and RSA
    body += b"\x01\x00"  # no compression; no extensions follow
    return b"\x01" + len(body).to_bytes(3, "big") + body


def _overrun_a_stream(core: QuicConnection) -> None:
    core._remote_max_data = _LIMITLESS
    core.send_stream_data(0, bytes(STREAM_WINDOW + 1))
    core._streams[0].max_stream_data_remote = _LIMITLESS
    core._loss._cc.congestion_window = _LIMITLESS


def _open_too_many_streams(core: QuicConnection) -> None:
    core._remote_max_streams_bidi = _LIMITLESS
    for number in range(STREAMS + 1):
        core.send_stream_data(4 * number, b"x")


def _open_a_one_way_stream(core: QuicConnection) -> None:
    core._remote_max_streams_uni = 1
    core._remote_max_stream_data_uni = _LIMITLESS
    core.send_stream_data(2, b"x")


def _answer_what_was_not_asked(core: QuicConnection) -> None:
    core._is_client = False  # else it would not let us
    core.send_stream_data(1, b"x")
    core._is_client = True


CRIMES: dict[str, tuple[Callable[[QuicConnection], None], int]] = {
    "more data than the stream has credit": (
        _overrun_a_stream,
        QuicErrorCode.FLOW_CONTROL_ERROR,
    ),
    "more streams than there is credit": (
        _open_too_many_streams,
        QuicErrorCode.STREAM_LIMIT_ERROR,
    ),
    "a one-way stream": (_open_a_one_way_stream, QuicErrorCode.STREAM_LIMIT_ERROR),
    "data on a stream never opened": (
        _answer_what_was_not_asked,
        QuicErrorCode.STREAM_STATE_ERROR,
    ),
}
"""What a peer may not do once it is connected, and the error that must end it."""


def _configuration(
    credentials: Credentials | None, alpn: Iterable[str], *, is_client: bool
) -> QuicConfiguration:
    configuration = QuicConfiguration(
        alpn_protocols=list(alpn), is_client=is_client, server_name="localhost", idle_timeout=5.0
    )
    configuration.verify_mode = ssl.CERT_NONE
    if credentials:
        configuration.certificate = credentials.certificate
        configuration.certificate_chain = list(credentials.chain)
        configuration.private_key = credentials.private_key
    return configuration

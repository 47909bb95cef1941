"""QUIC peers that do what our own endpoint would never do; the only other user of aioquic.

``RawPeer`` is one aioquic connection, client or server, on a socket of its own, with
whatever configuration a test wants and nothing verified. ``initial`` makes first packets of
any TLS bytes, valid as QUIC and cheap enough to make ten thousand of.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
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
    QuicFrameType,
    QuicPacketType,
    QuicProtocolVersion,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicPacketBuilder

from outrelay.lib.identity.certs import Credentials
from tests.support.impair import Address, UdpPort

ALPN = "orp/1"
INITIAL_SIZE = 1200


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
    """One aioquic connection on its own socket; make it with ``raw_client`` or ``raw_server``.

    Args:
        host: An address whose host the socket binds.
        configuration: aioquic's; a server's needs a certificate.
    """

    def __init__(self, host: Address, configuration: QuicConfiguration) -> None:
        self.port = UdpPort(host, self._received)
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._configuration = configuration
        self._loop = asyncio.get_running_loop()
        self._core: QuicConnection | None = None
        self._timer: asyncio.TimerHandle | None = None

    def dial(self, address: Address, *, shows_nothing: bool = False) -> None:
        """Begin a handshake as client; without even an empty certificate if asked to."""
        self._core = QuicConnection(configuration=self._configuration)
        self._core.connect(address, now=self._loop.time())
        if shows_nothing:
            self._core.tls.__class__ = _ShowsNothing
        self._pump()

    def close(self) -> None:
        """Vanish, without a word to the peer."""
        if self._timer:
            self._timer.cancel()
        self.port.close()

    def _received(self, data: bytes, sender: Address) -> None:
        if self._core is None:
            self._core = QuicConnection(
                configuration=self._configuration,
                original_destination_connection_id=data[6 : 6 + data[5]],
            )
        self._core.receive_datagram(data, sender, now=self._loop.time())
        self._pump()

    def _pump(self) -> None:
        """Send what is due, look what has happened, arm the timer."""
        assert self._core
        for data, address in self._core.datagrams_to_send(now=self._loop.time()):
            self.port.send(data, address)
        while (event := self._core.next_event()) is not None:
            if isinstance(event, ConnectionTerminated):
                alert = event.error_code - 0x100 if event.error_code >= 0x100 else None
                self._end(Outcome(confirmed=False, alert=alert, reason=event.reason_phrase))
        if self._core._handshake_confirmed:
            self._end(Outcome(confirmed=True))
        if self._timer:
            self._timer.cancel()
        when = self._core.get_timer()
        self._timer = self._loop.call_at(when, self._due) if when is not None else None

    def _due(self) -> None:
        assert self._core
        self._core.handle_timer(now=self._loop.time())
        self._pump()

    def _end(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class Prober:
    """A socket that sends single datagrams and keeps what comes back.

    Args:
        address: An address whose host it binds.
    """

    def __init__(self, address: Address) -> None:
        self.replies: list[bytes] = []
        self._port = UdpPort(address, self._received)
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


async def handshake(
    address: Address,
    *,
    credentials: Credentials | None = None,
    alpn: Sequence[str] = (ALPN,),
    shows_nothing: bool = False,
) -> Outcome:
    """Dial ``address`` as a client without scruples.

    Args:
        address: A listener.
        credentials: What it shows; None: no certificate.
        alpn: What it offers.
        shows_nothing: Leave the certificate message out instead of sending an empty one.
    """
    peer = RawPeer(address, _configuration(credentials, alpn, is_client=True))
    try:
        peer.dial(address, shows_nothing=shows_nothing)
        return await peer.outcome
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

"""Mutual TLS 1.3 over bytes: ciphertext in, plaintext out, and the other way round.

A ``TlsLayer`` is one end of one connection. It has no socket and no clock but the calendar:
what arrives is given to ``receive``, what is to be sent is taken from ``take``. OpenSSL judges
the peer's chain, signatures, dates and purpose while the handshake can still be refused; right
behind it, before a byte of the peer is read, comes what makes a peer ours: the protocol (ALPN)
and the one verifier of all carriers.

Invariants: TLS 1.3 and a certificate on both sides, or no connection; no tickets, so nothing is
ever resumed; our key is in no file.

Source: RFC 8446; protocol.md section 1.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from outrelay.lib.errors import Closed, ErrorCode, IdentityError
from outrelay.lib.identity.certs import Credentials, Trust
from outrelay.lib.identity.uri import Role
from outrelay.lib.identity.verify import Usage, verify_peer
from outrelay.lib.transport.carrier import Peer
from outrelay.lib.transport.refusal import Cause

if sys.version_info < (3, 13):
    import _ssl  # for the encoding of certificates, see _chain

RECORD = 16 * 1024
"""Bytes of plaintext in a full record."""

RECORD_OVERHEAD = 22
"""Bytes that TLS 1.3 adds to each."""

HANDSHAKE_MOST = 64 * 1024
"""Bytes a peer may send us before its handshake is over: several long certificate chains."""

_NOT_YET_VALID, _EXPIRED, _WRONG_PURPOSE = 9, 10, 26  # X509_V_ERR_*
_ALERT = "_ALERT_"
_FINAL_ALERTS = {
    "BAD_CERTIFICATE": "it takes our certificate for bad, or for not valid yet",
    "CERTIFICATE_EXPIRED": "our certificate has expired",
    "CERTIFICATE_REQUIRED": "it requires a certificate",
    "CERTIFICATE_REVOKED": "our certificate was revoked",
    "CERTIFICATE_UNKNOWN": "it does not accept our certificate",
    "NO_APPLICATION_PROTOCOL": "it does not speak our protocol (ALPN)",
    "UNKNOWN_CA": "our certificate does not lead to a CA it trusts",
    "UNSUPPORTED_CERTIFICATE": "our certificate is not for this usage",
}
"""What a peer says that will not have us, however often we try, and what that means."""


class HandshakeFailed(Exception):
    """There will be no connection; the carrier makes a Refusal or a Refused of it.

    Args:
        cause: For those who count.
        reason: For people.
        final: Trying again cannot help.
        told: The peer has been told by an alert; else it has not been told yet.
    """

    def __init__(
        self, cause: Cause, reason: str, *, final: bool = False, told: bool = False
    ) -> None:
        super().__init__(cause, reason)
        self.cause = cause
        self.reason = reason
        self.final = final
        self.told = told

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Whom a layer lets in.

    Args:
        trust: The CAs its certificate may come from.
        usage: What the peer is in this connection.
        roles: Roles it may have.
        server_name: DNS name its certificate must hold; empty: any.
        alpn: The one protocol spoken.
    """

    trust: Trust
    usage: Usage
    roles: Collection[Role]
    server_name: str = ""
    alpn: str = "orp/1"


class TlsContext:
    """What all layers of one listener or dialler share.

    Args:
        credentials: What we show.
        trust: Whom the peers' certificates must come from.
        server: Whether we are dialled; else we dial.
        alpn: The one protocol spoken.

    Raises:
        IdentityError: OpenSSL will not use our certificate.
    """

    def __init__(
        self, *, credentials: Credentials, trust: Trust, server: bool, alpn: str = "orp/1"
    ) -> None:
        self._trust = trust
        self._server = server
        self._alpn = alpn
        self._context = _context(credentials, trust, server=server, alpn=alpn)

    def showing(self, credentials: Credentials) -> TlsContext:
        """The same for layers to come, but for what we show.

        Raises:
            IdentityError: OpenSSL will not use our certificate.
        """
        return TlsContext(
            credentials=credentials, trust=self._trust, server=self._server, alpn=self._alpn
        )

    def layer(self, roles: Collection[Role], server_name: str = "") -> TlsLayer:
        """A new layer; its handshake has not begun.

        Args:
            roles: Roles the peer may have.
            server_name: DNS name a server's certificate must hold; empty: any.
        """
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(
            incoming, outgoing, server_side=self._server, server_hostname=server_name or None
        )
        rules = Rules(
            trust=self._trust,
            usage=Usage.CLIENT if self._server else Usage.SERVER,
            roles=roles,
            server_name=server_name,
            alpn=self._alpn,
        )
        return TlsLayer(tls, incoming, outgoing, rules)


class TlsLayer:
    """One end of one connection; a ``TlsContext`` makes it."""

    peer: Peer
    """Who it is with, once the handshake is over."""

    def __init__(
        self, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, rules: Rules
    ) -> None:
        self._tls = tls
        self._read: Callable[[int, memoryview], int] = tls.read  # type: ignore[assignment]
        self._incoming = incoming
        self._outgoing = outgoing
        self._rules = rules
        self._fault: Closed | None = None
        self._received = 0
        self.ended = False
        """Whether the peer has said that it sends no more."""

    # Ciphertext

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take what has arrived."""
        self._incoming.write(data)
        self._received += len(data)

    @property
    def undecrypted(self) -> int:
        """Bytes that have arrived and are no whole record yet."""
        return self._incoming.pending

    def take(self) -> bytes:
        """What is to be sent; empty when there is nothing."""
        return self._outgoing.read()

    # The handshake

    def advance(self) -> bool:
        """Go on with the handshake; whether it is over and the peer is who it should be.

        Raises:
            HandshakeFailed: One side refuses the other, or the peer does not speak TLS 1.3.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            if self._received > HANDSHAKE_MOST:
                raise HandshakeFailed(Cause.HANDSHAKE, "the handshake is too long") from None
            return False
        except ssl.SSLError as error:
            raise self._failure(error) from error
        self._judge()
        return True

    def _failure(self, error: ssl.SSLError) -> HandshakeFailed:
        """What an error of OpenSSL's means; its alert is among what is to be sent."""
        if isinstance(error, ssl.SSLCertVerificationError):
            fault = _chain_fault(error, self._rules.usage)
            return HandshakeFailed(
                Cause.CERTIFICATE, f"peer certificate: {fault}", final=True, told=True
            )
        if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return HandshakeFailed(
                Cause.CERTIFICATE, "a client certificate is required", final=True, told=True
            )
        if alert := _alert(error):
            final = alert in _FINAL_ALERTS
            return HandshakeFailed(Cause.PEER, _meaning(alert), final=final, told=True)
        reason = f"no TLS 1.3 handshake: {_words(error.reason)}"
        return HandshakeFailed(Cause.HANDSHAKE, reason, told=True)

    def _judge(self) -> None:
        rules = self._rules
        if self._tls.selected_alpn_protocol() != rules.alpn:
            raise HandshakeFailed(
                Cause.ALPN, f"the other side does not speak {rules.alpn} (ALPN)", final=True
            )
        try:
            chain = _chain(self._tls)
            identity = verify_peer(
                chain,
                rules.trust,
                usage=rules.usage,
                roles=rules.roles,
                server_name=rules.server_name,
                now=datetime.now(UTC),
            )
        except IdentityError as error:
            raise HandshakeFailed(Cause.CERTIFICATE, str(error), final=True) from error
        self.peer = Peer(identity=identity, expires=chain[0].not_valid_after_utc.timestamp())

    # Plaintext

    def read_into(self, buffer: memoryview) -> int:
        """Decrypt into ``buffer`` until it is full or there is no whole record left.

        Returns:
            Bytes of ``buffer`` that are filled; 0: none have arrived, or ``ended``.

        Raises:
            Closed: The peer sent an alert, or what is no TLS.
        """
        filled, size = 0, len(buffer)
        read, incoming, pending = self._read, self._incoming, self._tls.pending
        try:
            # A read gives one record, 16 KiB. One too many is an exception, as dear as a record.
            while filled < size and self._fault is None and (incoming.pending or pending()):
                count = read(size - filled, buffer[filled:])
                if not count:
                    self.ended = True
                    break
                filled += count
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._fault = _closed(error)
        if self._fault is not None and not filled:
            raise self._fault
        return filled

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt all of ``data``; the caller may reuse the buffer.

        Once the connection is broken nothing happens: ``read_into`` says how it ended.
        """
        if not data or self._fault is not None:
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            self._fault = _closed(error)

    def end(self) -> None:
        """Say that we send no more."""
        with suppress(ssl.SSLError):  # the peer has not said so yet, or the connection is broken
            self._tls.unwrap()


def sealed(size: int) -> int:
    """Bytes of ciphertext that ``size`` bytes of plaintext become, in full records."""
    return size + -(-size // RECORD) * RECORD_OVERHEAD


def records(parts: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """What to encrypt, one write each: ``parts`` in as few records, and copies, as will do.

    Small parts are joined; of a large one only as much is copied as fills up the record before.
    """
    small: list[bytes | memoryview] = []
    size = 0
    for part in parts:
        if len(part) <= RECORD:
            small.append(part)
            size += len(part)
            continue
        large, missing = memoryview(part), -size % RECORD
        yield b"".join((*small, large[:missing]))
        yield large[missing:]
        small, size = [], 0
    yield b"".join(small)


def _context(credentials: Credentials, trust: Trust, *, server: bool, alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the verifier does
    context.verify_mode = ssl.CERT_REQUIRED
    # What the operator lists is trusted, also when it is not a root itself.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols([alpn])
    if server:
        context.num_tickets = 0
    try:
        context.load_verify_locations(cadata=trust.pem.decode())
        _load_credentials(context, credentials)
    except ssl.SSLError as error:
        raise IdentityError(
            f"certificate of {credentials.identity}",
            f"cannot be used for TLS: {_words(error.reason)}",
        ) from error
    return context


def _load_credentials(context: ssl.SSLContext, credentials: Credentials) -> None:
    """Have the context use our certificate and key.

    It takes them from files alone. This one is memory under a name that only this process
    has and that ends with the descriptor: the key gets to no disk.
    """
    descriptor = os.memfd_create("outrelay-credentials")
    with os.fdopen(descriptor, "wb") as file:
        file.write(credentials.private_key_pem + credentials.certificate_pem)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")


def _chain(tls: ssl.SSLObject) -> list[x509.Certificate]:
    """What the peer sent, its leaf first."""
    if sys.version_info >= (3, 13):
        encoded = tls.get_unverified_chain()
    else:  # the same function, before it got a public name
        chain = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # noqa: SLF001
        encoded = [each.public_bytes(_ssl.ENCODING_DER) for each in chain or ()]
    try:
        return [x509.load_der_x509_certificate(each) for each in encoded]
    except (ValueError, x509.InvalidVersion) as error:
        raise IdentityError("peer certificate", "cannot be read") from error


def _chain_fault(error: ssl.SSLCertVerificationError, usage: Usage) -> str:
    """What OpenSSL has against a chain, in the verifier's words."""
    if error.verify_code == _NOT_YET_VALID:
        return "is not valid yet"
    if error.verify_code == _EXPIRED:
        return "has expired"
    if error.verify_code == _WRONG_PURPOSE:
        whom = "servers" if usage is Usage.SERVER else "clients"
        return f"is not for {whom} (extended key usage)"
    return f"does not lead to a CA we trust ({error.verify_message})"


def _closed(error: ssl.SSLError) -> Closed:
    """How a connection ends with an error of OpenSSL's."""
    if alert := _alert(error):
        code = ErrorCode.DENIED if alert in _FINAL_ALERTS else ErrorCode.PROTOCOL
        return Closed(code, _meaning(alert), by_peer=True)
    return Closed(ErrorCode.PROTOCOL, f"broken TLS: {_words(error.reason)}")


def _alert(error: ssl.SSLError) -> str:
    """The alert that the peer sent; empty when it is about something else."""
    return error.reason.partition(_ALERT)[2] if error.reason else ""


def _meaning(alert: str) -> str:
    return f"refused by the peer: {_FINAL_ALERTS.get(alert) or _words(alert)}"


def _words(reason: str | None) -> str:
    return (reason or "no reason given").lower().replace("_", " ")

"""Mutual TLS for aioquic, which offers it only half.

aioquic's server asks for a client certificate through a private flag alone, accepts an
empty one and never verifies the chain; its client checks a host name, which is not an
identity here. This subclass requires the certificate on both sides and has it judged
while the handshake can still be refused: the peer's Finished is not accepted before.

Source: RFC 8446 section 4.4.2.4; protocol.md section 1.
"""

from __future__ import annotations

from collections.abc import Callable

from aioquic import tls
from aioquic._buffer import Buffer
from cryptography import x509

from outrelay.lib.errors import IdentityError

Judge = Callable[[list[x509.Certificate]], None]
"""Takes the peer's chain, leaf first; raises IdentityError to refuse it."""

CERTIFICATE_REQUIRED = 116  # RFC 8446 section 6.2; aioquic's table ends before it

_GROUPS = [tls.Group.X25519, tls.Group.SECP256R1]
_CIPHERS = [
    tls.CipherSuite.AES_128_GCM_SHA256,
    tls.CipherSuite.AES_256_GCM_SHA384,
    tls.CipherSuite.CHACHA20_POLY1305_SHA256,
]


class _CertificateRequired(tls.Alert):
    description = CERTIFICATE_REQUIRED  # type: ignore[assignment]


class MutualContext(tls.Context):
    """A TLS context that lets nobody in whom its judge has not seen."""

    _judge: Judge

    @classmethod
    def adopt(cls, plain: tls.Context, judge: Judge) -> MutualContext:
        """Take over a context that aioquic has just made, before its first message."""
        context = cls.__new__(cls)
        context.__dict__.update(plain.__dict__)
        context._judge = judge
        context._request_client_certificate = True
        context._supported_groups = list(_GROUPS)
        context._cipher_suites = list(_CIPHERS)
        return context

    def _server_handle_certificate(self, input_buf: Buffer) -> None:
        super()._server_handle_certificate(input_buf)
        if self._peer_certificate is None:
            raise _CertificateRequired("a client certificate is required")

    def _client_handle_certificate(self, input_buf: Buffer) -> None:
        if self._certificate_request is None:
            raise tls.AlertHandshakeFailure("the server did not ask for our certificate")
        super()._client_handle_certificate(input_buf)

    def _set_peer_certificate(self, certificate: tls.Certificate) -> None:
        try:
            super()._set_peer_certificate(certificate)
        except x509.InvalidVersion as error:  # no ValueError, so aioquic does not expect it
            raise tls.AlertBadCertificate("certificate of an unknown version") from error

    def _check_certificate_verify_signature(self, verify: tls.CertificateVerify) -> None:
        super()._check_certificate_verify_signature(verify)
        assert self._peer_certificate is not None
        try:
            self._judge([self._peer_certificate, *self._peer_certificate_chain])
        except IdentityError as error:
            raise tls.AlertBadCertificate(f"certificate refused: {error.fault}") from error

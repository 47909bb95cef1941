"""What the extension of the native engine is made with: bounds, and who we are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import Certificate

from outrelay.lib.errors import ConfigError
from outrelay.lib.transport.quic.engine import STREAM_WINDOW, EngineOptions
from outrelay.lib.transport.quic.native_connection import STREAMS_FIRST
from outrelay.lib.transport.quic.reset import reset_key

_NO_NAME = "0.0.0.0"  # noqa: S104 - an address is no server name: none is sent


class Limits:
    """The bounds of the port, for the extension."""

    def __init__(self, options: EngineOptions) -> None:
        self.idle_timeout = options.idle_timeout
        self.datagram_first = options.datagram_sizes[0]
        self.datagram_last = options.datagram_sizes[-1]
        self.stream_window = STREAM_WINDOW
        self.streams = STREAMS_FIRST
        self.reset_key = reset_key(options.credentials)


class Identity:
    """Who we are and whom we trust, for the extension: DER, and PKCS #8."""

    def __init__(
        self, options: EngineOptions, judge: Callable[[int, Sequence[bytes]], str]
    ) -> None:
        credentials = options.credentials
        self.chain = _der(credentials.certificate, *credentials.chain)
        self.key = credentials.private_key.private_bytes(
            Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
        )
        self.authorities = _der(*options.trust.certificates)
        self.alpn = options.alpn
        self.listens = bool(options.accept_roles)
        self.judge = judge


def _der(*certificates: Certificate) -> list[bytes]:
    return [each.public_bytes(Encoding.DER) for each in certificates]


def unusable(error: ValueError) -> ConfigError:
    """What an operator hears of it."""
    return ConfigError(
        "the native QUIC engine", f"cannot use these certificates: {error}", "--quic-engine aioquic"
    )


def sni(server_name: str) -> str:
    """What the TLS client may ask for; the judge compares the name itself."""
    try:
        ip_address(server_name)
    except ValueError:
        is_name = server_name.isascii() and server_name.replace(".", "").replace("-", "").isalnum()
        return server_name if is_name else _NO_NAME
    return _NO_NAME

"""Stateless resets: how a restarted relay tells its old peers at once that it forgot them.

The token of a connection id is derived from our private key, so that the next process with
the same key knows it. A datagram that ends in it, sent to a peer that still believes in the
connection, ends that connection there without waiting for its idle timeout.

Source: RFC 9000 section 10.3.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from outrelay.lib.identity.certs import Credentials

TOKEN_LENGTH = 16
SHORTEST = 21
"""Bytes of the shortest datagram that can pass for a packet."""

RATE = 200
"""Resets sent in a second, at most."""


class StatelessResets:
    """Makes tokens and reset datagrams.

    Args:
        credentials: Whose private key the tokens are derived from.
    """

    def __init__(self, credentials: Credentials) -> None:
        self.use(credentials)
        self._second = 0
        self._sent = 0

    def use(self, credentials: Credentials) -> None:
        """Derive tokens from another private key from now on: the next process will know it."""
        self._key = reset_key(credentials)

    def token(self, connection_id: bytes) -> bytes:
        """What proves that we issued ``connection_id``."""
        return hmac.digest(self._key, connection_id, "sha256")[:TOKEN_LENGTH]

    def answer(self, connection_id: bytes, received: int, now: float) -> bytes | None:
        """The reset for a datagram of ``received`` bytes to an id we do not know.

        None where it would be no shorter than what it answers (two forgetful peers would
        go on for ever), or when too many went out this second.
        """
        size = min(received - 1, SHORTEST + 20)
        if size < SHORTEST or not self._may_send(now):
            return None
        noise = bytearray(os.urandom(size - TOKEN_LENGTH))
        noise[0] = noise[0] & 0x3F | 0x40
        return bytes(noise) + self.token(connection_id)

    def _may_send(self, now: float) -> bool:
        if int(now) != self._second:
            self._second, self._sent = int(now), 0
        self._sent += 1
        return self._sent <= RATE


def reset_key(credentials: Credentials) -> bytes:
    """What the tokens of everybody with this private key are derived from."""
    secret = credentials.private_key.private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    )
    return hashlib.sha256(b"outrelay stateless reset" + secret).digest()


def is_reset(datagram: bytes, tokens: list[bytes]) -> bool:
    """Whether an unexpected datagram ends in one of the peer's ``tokens``."""
    tail = datagram[-TOKEN_LENGTH:]
    return len(datagram) >= SHORTEST and any(hmac.compare_digest(tail, token) for token in tokens)

"""What the end of a QUIC connection or handshake means to the port, whichever engine saw it.

Source: RFC 9001 section 4.8 for what an alert means; RFC 9000 section 20.
"""

from __future__ import annotations

from outrelay.lib.errors import ErrorCode
from outrelay.lib.transport.refusal import Cause

NO_ANSWER = "no answer in time"
"""Why a handshake was given up."""

IDLE_TIMEOUT = "Idle timeout"
"""Reason of the end of a connection that was silent for too long."""

FORGOTTEN = "the peer has restarted"
"""Reason of the end of a connection that a stateless reset announced."""

REASON_MAX = 256
"""Bytes of a close's reason."""

_CERTIFICATE_ALERTS = {*range(0x100 + 42, 0x100 + 50), 0x100 + 116}
_ALPN_ALERT = 0x100 + 120
_FINAL_ALERTS = {*_CERTIFICATE_ALERTS, _ALPN_ALERT, 0x100 + 40}


def cut(reason: str) -> str:
    """A reason that fits a packet: a close that cannot be sent never ends."""
    return reason.encode()[:REASON_MAX].decode(errors="ignore")


def is_final(code: int) -> bool:
    """Whether another attempt cannot change it: certificates, no common ALPN."""
    return code in _FINAL_ALERTS


def cause_of(code: int) -> Cause:
    """Why a handshake failed that we ended with the transport error ``code``."""
    if code in _CERTIFICATE_ALERTS:
        return Cause.CERTIFICATE
    return Cause.ALPN if code == _ALPN_ALERT else Cause.HANDSHAKE


def transport_code(code: int) -> int:
    """What an error of the transport amounts to as one of the application's."""
    return ErrorCode.PROTOCOL if code else ErrorCode.NONE

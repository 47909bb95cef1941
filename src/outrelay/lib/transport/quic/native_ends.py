"""How handshakes and connections of the native engine ended, in the words of the port.

Source: ``ends``; outrelay_native.pyi, ``End``.
"""

from __future__ import annotations

from typing import NamedTuple

from outrelay.lib.errors import ErrorCode
from outrelay.lib.transport.quic.ends import (
    FORGOTTEN,
    IDLE_TIMEOUT,
    NO_ANSWER,
    cause_of,
    is_final,
    transport_code,
)
from outrelay.lib.transport.quic.engine import Event, EventKind
from outrelay.lib.transport.quic.native_peers import Link
from outrelay.lib.transport.refusal import Cause

_JUDGED = "invalid peer certificate: Other(OtherError("
"""How a peer with this engine wraps the words of its judge."""

_IN_OUR_WORDS = {
    0x100 + 116: "a client certificate is required",
    0x100 + 120: "no common ALPN protocol",
}
"""What rustls says with these alerts, but as the other engine says it."""


class End(NamedTuple):
    """Who or what ended it, as the extension names it, and what was said."""

    origin: str
    code: int
    reason: str

    @property
    def by_peer(self) -> bool:
        """Whether the peer said so."""
        return self.origin in ("application", "peer")

    @property
    def timed_out(self) -> bool:
        """Whether nobody did."""
        return self.origin in ("silence", "restart")

    @property
    def is_fault(self) -> bool:
        """Whether it is a bug of ours."""
        return self.origin == "fault"


def lost(link: Link, end: End) -> Event:
    """That a connection is over."""
    is_ours = end.origin == "application"
    code = ErrorCode.NONE if end.timed_out else transport_code(end.code)
    silence = FORGOTTEN if end.origin == "restart" else IDLE_TIMEOUT
    return Event(
        EventKind.LOST,
        link.number,
        code=end.code if is_ours else code,
        reason=silence if end.timed_out else end.reason,
        by_peer=end.by_peer,
        timed_out=end.timed_out,
    )


def refused(link: Link, end: End) -> Event:
    """That a handshake came to nothing."""
    return Event(
        EventKind.REFUSED,
        link.number,
        reason=link.refusal or _refusal_text(end),
        address=link.address,
        by_peer=end.by_peer,
        final=is_final(end.code),
        cause=_refusal_cause(link, end),
    )


def _refusal_text(end: End) -> str:
    if end.timed_out:
        return "no answer"
    reason = _IN_OUR_WORDS.get(end.code, end.reason)
    if reason.startswith(_JUDGED):
        reason = "certificate refused: " + reason.removeprefix(_JUDGED).strip(")").strip('"')
    who = "refused by the peer: " if end.by_peer else ""
    return who + (reason or f"handshake failed (0x{end.code:x})")


def _refusal_cause(link: Link, end: End) -> Cause:
    if end.by_peer:
        return Cause.PEER
    if end.timed_out or link.refusal == NO_ANSWER:
        return Cause.TIMEOUT
    return cause_of(end.code)

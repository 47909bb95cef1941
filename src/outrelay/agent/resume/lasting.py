"""Which streams outlive their connection, and what they share.

Source: protocol.md section 6.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from outrelay.agent.resume.finished import Finished
from outrelay.agent.resume.leg import Claim
from outrelay.agent.resume.rings import Rings
from outrelay.agent.session.greeting import RESUME
from outrelay.agent.session.session import Session
from outrelay.agent.session.uplink import Uplink
from outrelay.lib.errors import Why
from outrelay.lib.identity.uri import Identity
from outrelay.lib.observe.metrics import StreamMetrics
from outrelay.lib.orp.v1 import orp_pb2 as orp


class Leaver(Protocol):
    """A stream that may have to be left."""

    def leave(self) -> None:
        """The agent stops: wait no longer than somebody lacks something. Must not wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lasting:
    """What all lasting streams of an agent share.

    Args:
        identity: Ours.
        uplink: Gives sessions.
        rings: Hold what is not acknowledged.
        limit: Seconds a stream may be without a leg.
        finished: Remembers those that have ended well.
        metrics: Counts how streams go on.
        streams: Those that last.
    """

    identity: Identity
    uplink: Uplink
    rings: Rings
    limit: float
    finished: Finished
    metrics: StreamMetrics
    streams: set[Leaver] = field(default_factory=set)

    def leave(self) -> None:
        """The agent stops."""
        for each in [*self.streams]:
            each.leave()

    def why_not(self, claim: Claim, session: Session, ready: orp.StreamReady | None) -> Why | None:
        """Why a stream does not outlive its connection; None: it does.

        It needs the relay and the peer to know how, and two agents: one that uses its own
        service could not tell its halves apart.

        Args:
            claim: What we would say of it.
            session: What carries it now.
            ready: What the relay has said of it, if it has.
        """
        if not session.can_resume:
            return Why.RELAY
        if ready is None or RESUME not in ready.peer_features:
            return Why.PEER
        return None if self.may_last(claim, session) else Why.PEER

    def may_last(self, claim: Claim, session: Session) -> bool:
        """Whether it might, where nothing is known of the peer yet."""
        known = claim.stream_id != 0 and claim.peer not in ("", self.identity.uri)
        return known and session.can_resume

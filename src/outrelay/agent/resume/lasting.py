"""Which streams outlive their connection, and what they share.

Source: protocol.md section 6.
"""

from __future__ import annotations

from dataclasses import dataclass

from outrelay.agent.resume.leg import Claim
from outrelay.agent.resume.rings import Rings
from outrelay.agent.session.greeting import RESUME
from outrelay.agent.session.session import Session
from outrelay.agent.session.uplink import Uplink
from outrelay.lib.identity.uri import Identity
from outrelay.lib.orp.v1 import orp_pb2 as orp


@dataclass(frozen=True, slots=True, kw_only=True)
class Lasting:
    """What all lasting streams of an agent share.

    Args:
        identity: Ours.
        uplink: Gives sessions.
        rings: Hold what is not acknowledged.
        limit: Seconds a stream may be without a leg.
    """

    identity: Identity
    uplink: Uplink
    rings: Rings
    limit: float

    def lasts(self, claim: Claim, session: Session, ready: orp.StreamReady | None) -> bool:
        """Whether a stream outlives its connection.

        It needs the relay and the peer to know how, and two agents: one that uses its own
        service could not tell its halves apart.

        Args:
            claim: What we would say of it.
            session: What carries it now.
            ready: What the relay has said of it, if it has.
        """
        knows_how = ready is not None and RESUME in ready.peer_features
        return knows_how and self.may_last(claim, session)

    def may_last(self, claim: Claim, session: Session) -> bool:
        """The same, where nothing is known of the peer yet."""
        known = claim.stream_id != 0 and claim.peer not in ("", self.identity.uri)
        return known and session.can_resume

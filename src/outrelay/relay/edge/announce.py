"""Telling both agents that their stream is spliced: STREAM_READY.

Source: protocol.md sections 3 and 5.
"""

from __future__ import annotations

from collections.abc import Iterator

from outrelay.lib.orp.frame import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.policy import Verdict
from outrelay.relay.edge.session import RESUME, Session
from outrelay.relay.pairs import Pair


def announce(pair: Pair, consumers_id: int, verdict: Verdict) -> None:
    """Send both agents STREAM_READY.

    Args:
        pair: The stream.
        consumers_id: The id by which the consumer knows it; 0: by none.
        verdict: Why it is allowed; its mode goes to agents that know of modes.
    """
    sides = (
        (pair.provider, pair.consumer, pair.call.stream_id),
        (pair.consumer, pair.provider, consumers_id),
    )
    for session, peer, stream_id in sides:
        ready = orp.StreamReady(stream_id=stream_id)
        if not session.plain:
            ready.peer_agent_uri = peer.uri
            ready.p2p_mode = orp.P2PMode.ValueType(verdict.p2p_mode)
            ready.peer_features.extend(_features(session, peer))
        session.send(FrameType.STREAM_READY, ready)


def _features(session: Session, peer: Session) -> Iterator[str]:
    """What the peer can do, as far as that is of use to the two.

    An agent that uses its own service cannot resume the stream: by what is said of it on the
    control streams its two ends are one.
    """
    is_own = session.uri == peer.uri
    return (name for name in peer.capabilities if not (is_own and name == RESUME))

"""Telling both agents that their stream is spliced: STREAM_READY.

Source: protocol.md sections 3 and 5.
"""

from __future__ import annotations

from outrelay.lib.orp.frame import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.policy import Verdict
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
            ready.peer_features.extend(peer.capabilities)
        session.send(FrameType.STREAM_READY, ready)

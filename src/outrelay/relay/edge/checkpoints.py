"""Passing STREAM_CHECKPOINT on to the other agent of a stream.

Invariants: a checkpoint counts only on the connection that carries the sender's leg; nothing
but its three numbers is passed on; nobody waits for an agent that does not read.

Source: protocol.md section 6.
"""

from __future__ import annotations

from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.relay.edge.session import RESUME, Session
from outrelay.relay.ended import Ends
from outrelay.relay.pairs import Pairs


def pass_on(pairs: Pairs, sender: Session, message: orp.StreamCheckpoint) -> None:
    """Pass the checkpoint on, if there is somebody who has use for it.

    Args:
        pairs: The streams carried, and until a moment ago.
        sender: On whose control stream it came.
        message: The checkpoint.
    """
    ends = pairs.ends_of(sender.tenant, message.stream_id)
    receiver = _other(ends, sender) if ends else None
    if receiver is None or (RESUME in receiver.features) is not (RESUME in sender.features):
        return
    checkpoint = orp.StreamCheckpoint(
        stream_id=message.stream_id,
        my_position=message.my_position,
        peer_ack_position=message.peer_ack_position,
    )
    if message.HasField("final_position"):
        checkpoint.final_position = message.final_position
    receiver.outbox.post(checkpoint)


def _other(ends: Ends, sender: Session) -> Session | None:
    """Whom the sender talks to; nobody when that is itself."""
    if ends.consumer is ends.provider:
        return None
    if sender is ends.consumer:
        return ends.provider
    return ends.consumer if sender is ends.provider else None

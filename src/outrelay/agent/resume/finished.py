"""Streams that have ended here, while the far agent may not know it yet.

A FIN or a reset may die with the relay that has acknowledged it, or with the far agent's leg; and
an application may leave while its stream has no leg. Whoever misses the end offers its half, and
the relay calls the other agent: then the end is said again.

Invariant: what is remembered is bounded, only for a while, and holds no byte of a stream.

Source: protocol.md section 6; docs/decisions/0010-the-second-fin-waits.md.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from outrelay.agent.resume.leg import Claim, Leg, offer
from outrelay.agent.session.session import Session
from outrelay.agent.streams import Streams
from outrelay.lib.errors import ErrorCode, OutRelayError, RemoteProtocolError
from outrelay.lib.observe import logs
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.resume.state import Checkpoint
from outrelay.lib.transport.carrier import READ_SIZE

log = logs.get_logger(__name__)

KEPT = 120.0
"""Seconds a stream is remembered."""

MOST = 4 * 1024
"""Streams remembered."""

PATIENCE = 10.0
"""Seconds for saying an end again."""


@dataclass(frozen=True, slots=True)
class _End:
    """Where a stream has ended, how, and when."""

    claim: Claim
    position: Checkpoint
    code: ErrorCode
    at: float


class Finished:
    """Remembers streams that have ended.

    Args:
        streams: Runs what says an end again.
    """

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._ends: dict[int, _End] = {}  # the oldest come first

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, claim: Claim, position: Checkpoint, code: ErrorCode = ErrorCode.NONE) -> None:
        """A stream has ended.

        Args:
            claim: What we would say of it.
            position: Where that was.
            code: What it was reset with; NONE: both directions ended by FIN.
        """
        now = asyncio.get_running_loop().time()
        self._ends.pop(claim.stream_id, None)
        self._ends[claim.stream_id] = _End(claim, position, code, now)
        while len(self._ends) > MOST or now - next(iter(self._ends.values())).at > KEPT:
            del self._ends[next(iter(self._ends))]

    def called(self, session: Session, stream_id: int) -> None:
        """The far agent waits for its stream at the relay of ``session``."""
        end = self._ends.get(stream_id)
        if end and not self._streams.full:
            self._streams.start(_say_again(session, end), name="agent: an end, again")


async def _say_again(session: Session, end: _End) -> None:
    line = log.bind(stream_id=end.claim.name, side=end.claim.side)
    try:
        async with asyncio.timeout(PATIENCE):
            leg, told = await offer(session, end.claim, end.position)
            try:
                if end.code is ErrorCode.NONE:
                    await _finish(leg, told, end)
            finally:
                # which changes nothing where both directions have ended
                leg.abandon(end.code or ErrorCode.NOT_RESUMABLE)
    except (OutRelayError, TimeoutError) as error:
        line.info("end not said again", reason=str(error) or "no answer")
    else:
        line.info("end said again")


async def _finish(leg: Leg, told: Checkpoint, end: _End) -> None:
    """End our direction of ``leg``, and see the peer's end.

    Raises:
        RemoteProtocolError: The peer is not where the stream has ended.
        TransportError: The leg is lost.
    """
    ours = end.position
    there = (told.peer_ack_position, told.my_position)
    if there != (ours.my_position, ours.peer_ack_position):
        raise RemoteProtocolError("the far agent is not where the stream has ended")
    checkpoint = orp.StreamCheckpoint(
        stream_id=end.claim.stream_id,
        my_position=ours.my_position,
        peer_ack_position=ours.peer_ack_position,
        final_position=ours.my_position,
    )
    leg.session.post(checkpoint)
    leg.carrier.finish()
    if await leg.read(READ_SIZE):
        raise RemoteProtocolError("the far agent sends on behind its end")
    leg.session.post(checkpoint)  # the answer to its FIN
    await leg.carrier.wait_finished()

"""What carries a stream now, and how the stream gets another one.

Words: a *leg* is a carrier's stream and the session it belongs to. A *half* is a leg that we
have offered to the relay with STREAM_RESUME, until the other agent's has come: then the relay
gives us that agent's STREAM_RESUME, its *echo*.

Invariant: of a leg that is lost nothing is read or written any more.

Source: protocol.md section 6.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import partial

from outrelay.agent.session.carried import Carried
from outrelay.agent.session.session import Session
from outrelay.agent.session.uplink import Uplink
from outrelay.lib.errors import (
    Closed,
    ErrorCode,
    RejectCode,
    RemoteProtocolError,
    Reset,
    ResumeError,
    StreamRejected,
    Why,
)
from outrelay.lib.orp.frame import encode
from outrelay.lib.orp.types import Frame, FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.resume.state import Checkpoint
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.transport.dial import Backoff
from outrelay.lib.transport.frames import FrameReader, message_of

RETRY_MOST = 5.0
"""The longest wait between two offers, seconds."""

_AGAIN = frozenset(
    {
        *(ErrorCode.NONE, ErrorCode.LEG_LOST, ErrorCode.EXPIRED, ErrorCode.DRAIN),
        *(ErrorCode.LIMIT, ErrorCode.INTERNAL),
    }
)
"""Codes of a half that ended: offer it again."""

_FINAL = {
    RejectCode.DENIED: (Why.POLICY, ErrorCode.DENIED),
    RejectCode.MALFORMED: (Why.REFUSED, ErrorCode.PROTOCOL),
    RejectCode.ID_IN_USE: (Why.REFUSED, ErrorCode.NOT_RESUMABLE),
}
"""Refusals of a half that end the stream; after any other it is offered again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a half says of its stream, beside where it is.

    Args:
        stream_id: The stream's.
        peer: URI of the agent at the far end.
        service: What the stream leads to.
        is_consumer: Whether we opened it.
    """

    stream_id: int
    peer: str
    service: str
    is_consumer: bool

    def resume(self, at: Checkpoint) -> orp.StreamResume:
        """The frame that offers the half."""
        return orp.StreamResume(
            stream_id=self.stream_id,
            my_position=at.my_position,
            peer_ack_position=at.peer_ack_position,
            peer_agent_uri=self.peer,
            target_service=self.service,
            role=orp.Role.CONSUMER if self.is_consumer else orp.Role.PROVIDER,
        )

    @property
    def name(self) -> str:
        """The stream's id as logs and audit have it."""
        return f"{self.stream_id:016x}"

    @property
    def side(self) -> str:
        """Which end of it we are, as logs have it."""
        return "consumer" if self.is_consumer else "provider"


class Leg:
    """What carries a stream now.

    Args:
        carrier: The carrier's stream; nobody else uses it.
        session: The session it belongs to.
        carried: The stream's place in that.
        early: Bytes that came behind the frames.
    """

    __slots__ = ("again", "carried", "carrier", "early", "over", "session")

    def __init__(self, carrier: Stream, session: Session, carried: Carried, early: bytes) -> None:
        self.carrier = carrier
        self.session = session
        self.carried = carried
        self.early = early
        self.again: deque[memoryview] = deque()
        """What was sent over other legs, and the peer lacks."""
        self.over = asyncio.Event()
        """Set when it is lost, or when the stream is over."""

    async def read(self, limit: int) -> bytes:
        """What has come; see ``carrier.Stream``."""
        early, self.early = self.early, b""
        return early or await self.carrier.read(limit)

    def abandon(self, code: ErrorCode) -> None:
        """End both directions of it, and leave the session."""
        self.over.set()
        self.carrier.reset(code)
        self.carrier.stop(code)
        self.carried.release()


class Legs:
    """Gets another leg for a stream that has lost its own.

    Args:
        uplink: Gives the session.
        claim: What we say of the stream.
    """

    def __init__(self, uplink: Uplink, claim: Claim) -> None:
        self.claim = claim
        self._uplink = uplink

    async def another(self, at: Checkpoint, limit: float) -> tuple[Leg, Checkpoint]:
        """A new leg, and where the peer is.

        Args:
            at: Where we are.
            limit: Seconds to try.

        Raises:
            ResumeError: There will be none; it says why.
            RemoteProtocolError: The relay answered otherwise.
            Reset: The peer has given the stream up.
        """
        backoff = Backoff(immediate=True)
        why = "no relay is connected"
        try:
            async with asyncio.timeout(limit):
                while True:
                    await asyncio.sleep(backoff.delay(RETRY_MOST))
                    session = await self._uplink.lasting_session()
                    try:
                        return await offer(session, self.claim, at)
                    except (Closed, Reset, StreamRejected) as error:
                        why = _judge(error)
                        if self.claim.is_consumer and _is_expired(error):
                            self._uplink.look_elsewhere(session)
                    if session.is_leaving:
                        backoff.reset()
        except TimeoutError:
            reason = f"not resumed within {limit:g} s: {why}"
            raise ResumeError(Why.WINDOW, reason, ErrorCode.EXPIRED) from None


async def offer(session: Session, claim: Claim, at: Checkpoint) -> tuple[Leg, Checkpoint]:
    """A leg at the relay of ``session``, once the peer's half has come; and where that is.

    Args:
        session: What carries it.
        claim: What we say of the stream.
        at: Where we are.

    Raises:
        ResumeError: The relay resumes nothing.
        RemoteProtocolError: It answered otherwise.
        StreamRejected: It refused.
        Reset: It ended the half.
        Closed: The connection is gone.
    """
    if not session.can_resume:
        raise ResumeError(Why.RELAY, "the relay that is connected now resumes no streams")
    carried = session.stream(claim.stream_id)
    half: Stream | None = None
    try:
        half = carried.over(await session.open_stream())
        carried.on_move = partial(_drop, half, ErrorCode.LEG_LOST)  # offer it elsewhere
        await half.write(encode(FrameType.STREAM_RESUME, claim.resume(at)))
        reader = FrameReader(half)
        echo = _echo(await reader.next_frame())
    except BaseException:
        if half:
            _drop(half, ErrorCode.CANCELLED)
        carried.release()
        raise
    told = Checkpoint(my_position=echo.my_position, peer_ack_position=echo.peer_ack_position)
    return Leg(half, session, carried, reader.rest()), told


def _echo(frame: Frame | None) -> orp.StreamResume:
    """What the relay has answered to a half.

    Raises:
        Reset: It ended the half.
        StreamRejected: It refused it.
        RemoteProtocolError: It said something else.
    """
    if frame is None:
        raise Reset(ErrorCode.EXPIRED)
    if frame.type == FrameType.STREAM_REJECT:
        reject = message_of(frame, orp.StreamReject)
        raise StreamRejected(reject.code, reject.reason)
    if frame.type != FrameType.STREAM_RESUME:
        raise RemoteProtocolError(f"expected STREAM_RESUME, got {frame.name}")
    return message_of(frame, orp.StreamResume)


def _judge(error: Closed | Reset | StreamRejected) -> str:
    """Why an offer failed, when it may be made again.

    Raises:
        ResumeError: The relay will not have it.
        Reset: It ended for good.
    """
    match error:
        case Reset() if error.code not in _AGAIN:
            raise error
        case StreamRejected() if error.code in _FINAL:
            why, code = _FINAL[RejectCode(error.code)]
            raise ResumeError(why, f"the relay refused: {error}", code)
        case _:
            return str(error)


def _is_expired(error: Closed | Reset | StreamRejected) -> bool:
    """Whether the far agent did not come; of the two the consumer goes and looks for it."""
    return isinstance(error, Reset) and error.code is ErrorCode.EXPIRED


def _drop(half: Stream, code: ErrorCode) -> None:
    half.reset(code)
    half.stop(code)

"""Asking one provider to serve a call: INCOMING_STREAM, and its answer.

Invariant: a stream that is not accepted is ended at once, and what the provider still says
on it goes nowhere.

Source: protocol.md section 5.
"""

from __future__ import annotations

from functools import partial

from outrelay.lib.errors import (
    ErrorCode,
    RejectCode,
    RemoteProtocolError,
    StreamRejected,
    TransportError,
)
from outrelay.lib.orp.frame import Frame, FrameType, encode
from outrelay.lib.orp.types import decode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.frames import FrameReader
from outrelay.relay.call import Call
from outrelay.relay.edge.session import Session
from outrelay.relay.splice import PROVIDER, Leg

LONGEST_REASON = 512
"""Characters of a provider's reason that are passed on."""

REJECT_CODES = frozenset(RejectCode)


async def invite(provider: Session, call: Call, frame_bytes: int) -> Leg:
    """The leg of ``provider``, once it has accepted ``call``.

    Cancelled, it gives the stream up.

    Args:
        provider: Who is asked.
        call: What for.
        frame_bytes: The longest payload to take.

    Raises:
        StreamRejected: It refused, or cannot be asked.
    """
    try:
        stream = await provider.connection.open_stream()
        leg = Leg(stream, PROVIDER, on_reset=partial(provider.say_ended, call.stream_id))
        await _ask(call, leg, frame_bytes)
    except (TransportError, RemoteProtocolError) as error:
        raise StreamRejected(RejectCode.UNREACHABLE, f"the provider: {error}") from error
    return leg


async def _ask(call: Call, leg: Leg, frame_bytes: int) -> None:
    incoming = orp.IncomingStream(
        target_service=call.service,
        method=call.method,
        source_agent_uri=call.caller,
        stream_id=call.stream_id,
    )
    frames = FrameReader(leg.stream, frame_bytes)
    try:
        await leg.stream.write(encode(FrameType.INCOMING_STREAM, incoming))
        _check_answer(await frames.next_frame())
    except StreamRejected:
        leg.stream.finish()
        leg.stream.stop(ErrorCode.CANCELLED)
        raise
    except BaseException:
        leg.abandon(ErrorCode.CANCELLED)
        raise
    leg.early = frames.rest()


def _check_answer(frame: Frame | None) -> None:
    """Return when the provider accepts.

    Raises:
        StreamRejected: It does not.
        RemoteProtocolError: It said something else, or nothing.
    """
    if frame is None:
        raise RemoteProtocolError("ended the stream without an answer")
    message = decode(frame)
    if isinstance(message, orp.StreamAccept):
        return
    if not isinstance(message, orp.StreamReject):
        raise RemoteProtocolError(f"answered with {frame.name}")
    code = message.code if message.code in REJECT_CODES else RejectCode.REJECTED
    raise StreamRejected(code, message.reason[:LONGEST_REASON] or "rejected by the provider")

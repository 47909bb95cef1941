"""The first frame of a data stream: what an agent asks for, or the error it is.

Source: protocol.md sections 2, 3 and 5.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from outrelay.lib.errors import RejectCode, RemoteProtocolError, StreamRejected
from outrelay.lib.orp.frame import Frame, FrameType
from outrelay.lib.orp.types import decode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.policy import REGISTER
from outrelay.lib.transport.frames import FrameReader
from outrelay.relay.call import Call, is_method, is_service_name
from outrelay.relay.edge.claim import Claim, read_claim
from outrelay.relay.edge.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An OPEN_STREAM.

    Args:
        call: What the consumer asks for.
        consumers_id: The id by which it knows the stream; 0: by none.
    """

    call: Call
    consumers_id: int


async def read_request(frames: FrameReader, session: Session) -> Request | Claim:
    """What the agent of ``session`` asks for, by the first of ``frames``.

    Raises:
        StreamRejected: It is no request that can be served; the agent has to be told.
        RemoteProtocolError: It is no frame of a data stream at all.
        Reset: The agent gave the stream up.
        Closed: The connection is gone.
    """
    frame = await frames.next_frame()
    if frame is None:
        raise RemoteProtocolError("ended before its first frame")
    if frame.type == FrameType.STREAM_RESUME:
        return read_claim(frame, session)
    message = _open_stream(frame)
    _check(message, session)
    call = Call(
        tenant=session.tenant,
        caller=session.uri,
        service=message.target_service,
        method=message.method,
        stream_id=message.stream_id or _draw_id(),
    )
    return Request(call=call, consumers_id=message.stream_id)


def _open_stream(frame: Frame) -> orp.OpenStream:
    if frame.type not in FrameType.__members__.values():
        raise RemoteProtocolError(f"unknown frame {frame.name}")
    if frame.type != FrameType.OPEN_STREAM:
        raise StreamRejected(
            RejectCode.MALFORMED,
            f"a stream begins with OPEN_STREAM or STREAM_RESUME, not {frame.name}",
        )
    try:
        message = decode(frame)
    except RemoteProtocolError as error:
        raise StreamRejected(RejectCode.MALFORMED, str(error)) from error
    assert isinstance(message, orp.OpenStream)
    return message


def _check(message: orp.OpenStream, session: Session) -> None:
    if not is_service_name(message.target_service):
        raise StreamRejected(RejectCode.MALFORMED, "target_service is not a service's name")
    if not is_method(message.method):
        raise StreamRejected(RejectCode.MALFORMED, "method is not printable, or too long")
    if message.method == REGISTER:  # whoever may expose a service may not call it for that
        raise StreamRejected(RejectCode.MALFORMED, "REGISTER is no method of a stream")
    if message.stream_id == 0 and not session.plain:
        raise StreamRejected(RejectCode.MALFORMED, "stream_id is 0")


def _draw_id() -> int:
    """An id for the stream of a consumer that gave none."""
    return secrets.randbelow(2**64 - 1) + 1

"""STREAM_RESUME as the first frame of a data stream: an agent's claim to a stream it had.

Where the stream was opened with a method, ``target_service`` is ``service/method``: policy is
asked again, and by nothing else could a relay know that carried the stream never before.

Source: protocol.md sections 3 and 6; docs/decisions/0012-the-method-of-a-resumed-stream.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from outrelay.lib.errors import RejectCode, RemoteProtocolError, StreamRejected
from outrelay.lib.orp.frame import Frame
from outrelay.lib.orp.types import decode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.policy import REGISTER
from outrelay.relay.call import Call, is_method, is_service_name
from outrelay.relay.edge.session import Session
from outrelay.relay.matching import Half, Role

LONGEST_URI = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A STREAM_RESUME.

    Args:
        half: Whom the agent expects, and at which end of what.
        my_position: Bytes its application has written.
        peer_ack_position: Bytes its application has taken.
    """

    half: Half
    my_position: int
    peer_ack_position: int

    @property
    def call(self) -> Call:
        """The same for audit and logs, as something its agent asks for."""
        half = self.half
        return Call(
            tenant=half.tenant,
            caller=half.agent,
            service=half.service,
            method=half.method,
            stream_id=half.stream_id,
        )

    def echo(self, to: Session) -> orp.StreamResume:
        """What the agent of the other half is told of this one."""
        half = self.half
        frame = orp.StreamResume(
            stream_id=half.stream_id,
            my_position=self.my_position,
            peer_ack_position=self.peer_ack_position,
        )
        if not to.plain:
            frame.peer_agent_uri = half.peer
            frame.target_service = "/".join(filter(None, half.target))
            frame.role = orp.Role.ValueType(half.role)
        return frame


def read_claim(frame: Frame, session: Session) -> Claim:
    """What the agent of ``session`` claims by a STREAM_RESUME.

    Raises:
        StreamRejected: It is malformed; the agent has to be told.
    """
    try:
        message = decode(frame)
    except RemoteProtocolError as error:
        raise StreamRejected(RejectCode.MALFORMED, str(error)) from error
    assert isinstance(message, orp.StreamResume)
    if message.stream_id == 0:
        raise StreamRejected(RejectCode.MALFORMED, "stream_id is 0")
    return Claim(
        half=_half(message, session),
        my_position=message.my_position,
        peer_ack_position=message.peer_ack_position,
    )


def _half(message: orp.StreamResume, session: Session) -> Half:
    """Who does not say all of what it expects, expects nobody."""
    if not (message.peer_agent_uri and message.target_service and message.role):
        return Half(tenant=session.tenant, stream_id=message.stream_id, agent=session.uri)
    service, _, method = message.target_service.partition("/")
    if not is_service_name(service):
        raise StreamRejected(RejectCode.MALFORMED, "target_service is not a service's name")
    if not is_method(method) or method == REGISTER:
        raise StreamRejected(RejectCode.MALFORMED, "target_service names no method of a stream")
    if len(message.peer_agent_uri) > LONGEST_URI:
        raise StreamRejected(RejectCode.MALFORMED, "peer_agent_uri is not an agent's URI")
    try:
        role = Role(message.role)
    except ValueError as error:
        reason = "role is neither consumer nor provider"
        raise StreamRejected(RejectCode.MALFORMED, reason) from error
    return Half(
        tenant=session.tenant,
        stream_id=message.stream_id,
        agent=session.uri,
        peer=message.peer_agent_uri,
        service=service,
        method=method,
        role=role,
    )

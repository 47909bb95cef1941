"""The control loop: what an agent says on its control stream, and the answers.

Every frame is answered at once from memory; nothing here waits for the controller or for
another agent.

Source: protocol.md sections 2 and 4.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from outrelay.lib.errors import ErrorCode, RejectCode, RemoteProtocolError, StreamRejected
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.metrics import RegistrationMetrics
from outrelay.lib.observe.throttle import Throttle
from outrelay.lib.orp.frame import Frame, FrameType
from outrelay.lib.orp.types import decode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.policy import REGISTER
from outrelay.lib.rates import Rates
from outrelay.relay.audit.trail import Trail
from outrelay.relay.call import LONGEST_NAME, Call, is_service_name
from outrelay.relay.directory import Directory, service_id
from outrelay.relay.edge.checkpoints import pass_on
from outrelay.relay.edge.session import DEREGISTER, Offer, Session
from outrelay.relay.limits import Limits
from outrelay.relay.pairs import Pairs
from outrelay.relay.policy.judge import Judge
from outrelay.relay.quotas import Quota
from outrelay.relay.splice import CONSUMER, PROVIDER

log = get_logger(__name__)

TURN = 64
"""Frames of one agent after which the others get their turn."""

LONGEST_ADDRESS = 255


class ControlLoop:
    """Serves control streams.

    Args:
        directory: Told what agents offer.
        judge: Asked whether they may.
        pairs: Whose checkpoints are passed on.
        services: How many an agent and its tenant may offer.
        trail: Where registrations are recorded.
        metrics: Counts those that are refused.
        limits: Of this relay.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        judge: Judge,
        pairs: Pairs,
        services: Quota,
        trail: Trail,
        metrics: RegistrationMetrics,
        limits: Limits,
    ) -> None:
        self._directory = directory
        self._judge = judge
        self._pairs = pairs
        self._services = services
        self._trail = trail
        self._metrics = metrics
        self._throttle = Throttle()
        self._changes = Rates[str](
            per_second=limits.registrations_per_second, burst=limits.registrations_burst
        )
        self._takers: dict[int, Callable[[Session, Message], None]] = {
            FrameType.REGISTER: self._register,
            FrameType.DEREGISTER: self._deregister,
            FrameType.STREAM_CHECKPOINT: self._checkpoint,
            FrameType.STREAM_ENDED: self._ended,
            FrameType.OBSERVED_ADDR_QUERY: _tell_address,
            FrameType.PING: self._pong,
            FrameType.PONG: _nothing,
        }

    async def run(self, session: Session) -> None:
        """Take the frames of ``session`` until it ends its control stream.

        Raises:
            RemoteProtocolError: It broke the protocol's rules.
            Reset: It reset the stream.
            Closed: Its connection is gone.
        """
        skipped_some = False
        taken = 0
        while (frame := await session.frames.next_frame()) is not None:
            if take := self._takers.get(frame.type):
                take(session, decode(frame))
            else:
                _check_order(frame)
                if not skipped_some:
                    skipped_some = True
                    log.info("unknown frames are skipped", agent=session.uri, first=frame.name)
            taken += 1
            if taken % TURN == 0:
                await asyncio.sleep(0)

    def _register(self, session: Session, message: Message) -> None:
        assert isinstance(message, orp.Register)
        name = message.service_name
        offer = Offer(
            local_addr=_printable(message.local_addr),
            weight=message.weight,
            priority=message.priority,
        )
        try:
            self._check_registration(session, name, offer)
        except StreamRejected as refusal:
            self._nack(session, name, refusal)
            return
        if name not in session.services:
            log.info("service registered", service=name, agent=session.uri)
        if session.services.get(name) != offer:
            self._directory.offer(session, name, offer)
        ack = orp.RegisterAck(service_id=service_id(session.tenant, name))
        session.send(FrameType.REGISTER_ACK, ack)

    def _check_registration(self, session: Session, name: str, offer: Offer) -> None:
        if not is_service_name(name):
            raise StreamRejected(
                RejectCode.MALFORMED,
                "a service's name is 1 to 255 printable ASCII characters without / and space",
            )
        if not self._directory.is_offered(session, name):
            self._services.check(session.uri, session.tenant)
        is_change = session.services.get(name) != offer  # which others hear of, and keep
        if is_change and not self._changes.spend(session.uri, time.monotonic()):
            raise StreamRejected(RejectCode.LIMIT, "the agent changes its services too often")
        call = Call(tenant=session.tenant, caller=session.uri, service=name, method=REGISTER)
        verdict = self._judge.count(
            self._judge.judge_registration(session.tenant, session.uri, name)
        )
        if not verdict.allow:
            self._trail.rejected(call, verdict.reason)
            raise StreamRejected(RejectCode.DENIED, verdict.reason)
        if name not in session.services:
            self._trail.registered(call, verdict.reason)

    def _nack(self, session: Session, name: str, refusal: StreamRejected) -> None:
        """Refuse a registration: silently to an agent that knows no REGISTER_NACK."""
        self._metrics.refused.labels(str(int(refusal.code))).inc()
        self._throttle.write(
            log.info,
            "registration refused",
            cause=(session.uri, refusal.code),
            service=name[:LONGEST_NAME],
            agent=session.uri,
            code=int(refusal.code),
            reason=refusal.reason,
        )
        if DEREGISTER in session.features:
            nack = orp.StreamReject(
                code=refusal.code, reason=refusal.reason, service_name=name[:LONGEST_NAME]
            )
            session.send(FrameType.REGISTER_NACK, nack)

    def _deregister(self, session: Session, message: Message) -> None:
        assert isinstance(message, orp.Register)
        if message.service_name in session.services:
            log.info("service deregistered", service=message.service_name, agent=session.uri)
            self._directory.withdraw(session, message.service_name)

    def _checkpoint(self, session: Session, message: Message) -> None:
        assert isinstance(message, orp.StreamCheckpoint)
        pass_on(self._pairs, session, message)

    def _ended(self, session: Session, message: Message) -> None:
        """On tcp an agent of another implementation says so before it resets its leg."""
        assert isinstance(message, orp.StreamEnded)
        pair = self._pairs.find(session.tenant, message.stream_id)
        if pair and pair.splice and session in (pair.consumer, pair.provider):
            side = CONSUMER if session is pair.consumer else PROVIDER
            pair.splice.explain(side, ErrorCode.of(message.code))

    def _pong(self, session: Session, _message: Message) -> None:
        session.send(FrameType.PONG, Empty())


def _printable(address: str) -> str:
    """An address that is informational: nothing instead of what nobody could read."""
    return address if len(address) <= LONGEST_ADDRESS and address.isprintable() else ""


def _tell_address(session: Session, message: Message) -> None:
    """Tell an agent where its packets come from. Source: protocol.md section 7."""
    assert isinstance(message, orp.ObservedAddrQuery)
    host, port = session.connection.peer_address
    seen = ipaddress.ip_address(host)
    mapped = seen.ipv4_mapped if isinstance(seen, ipaddress.IPv6Address) else None
    answer = orp.ObservedAddrResp(request_id=message.request_id, ip=str(mapped or seen), port=port)
    session.send(FrameType.OBSERVED_ADDR_RESP, answer)


def _nothing(_session: Session, _message: Message) -> None:
    """A frame that needs no answer."""


def _check_order(frame: Frame) -> None:
    """Raise RemoteProtocolError for a frame that has had its time."""
    if frame.type == FrameType.HELLO:
        raise RemoteProtocolError("a second HELLO")

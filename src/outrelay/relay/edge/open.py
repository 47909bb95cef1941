"""Opening a stream: decided from memory, answered by the provider, then spliced.

    consumer            relay                         provider
    OPEN_STREAM ------>  places, caller-side policy
                         directory, callee-side policy
                         INCOMING_STREAM ----------->
                         <----------- STREAM_ACCEPT | STREAM_REJECT
    <- STREAM_READY      STREAM_READY --------------> (both on the control streams)
    <========= raw bytes, both ways =========>

Invariants: no decision waits for the controller (a refusal may, for a moment: a relay that has
just started has no policy yet, nor providers); a consumer learns nothing of other tenants; every
decision is recorded, and one that cannot be recorded is no. A relay that leaves refuses nobody
whom another relay may serve.

Source: protocol.md section 5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import NotRequired, TypedDict

from outrelay.lib.errors import (
    Closed,
    ErrorCode,
    RejectCode,
    RemoteProtocolError,
    Reset,
    StreamRejected,
    TransportError,
)
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.metrics import StreamMetrics
from outrelay.lib.observe.throttle import Throttle
from outrelay.lib.orp.frame import FrameType, encode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.policy import Verdict
from outrelay.lib.tasks import beside
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.transport.frames import FrameReader
from outrelay.relay.audit.trail import Trail
from outrelay.relay.call import Call
from outrelay.relay.edge.announce import announce
from outrelay.relay.edge.carry import Carriage
from outrelay.relay.edge.claim import Claim
from outrelay.relay.edge.request import Request, read_request
from outrelay.relay.edge.resume import Resumer
from outrelay.relay.edge.seek import Choice, Seeker
from outrelay.relay.edge.session import GOAWAY, Session
from outrelay.relay.limits import Limits
from outrelay.relay.pairs import Pair, Pairs
from outrelay.relay.policy.judge import Judge
from outrelay.relay.quotas import Place, Quotas
from outrelay.relay.splice import CONSUMER, Leg

log = get_logger(__name__)

GIVEN_UP = "given up by the consumer"
DRAINING = "its providers have left this relay, which is shutting down"

ABSENT = frozenset({RejectCode.NOT_FOUND, RejectCode.UNREACHABLE})
"""Refusals for want of a provider."""


class Opener:
    """Serves the data streams that agents open.

    Args:
        seeker: Finds a provider for each.
        resumer: Serves those that go on with one that was open before.
        judge: What policy says of their callers.
        pairs: The streams carried.
        quotas: What agents and tenants may have of them.
        trail: Where everything is recorded.
        metrics: Counts streams and their bytes.
        limits: Of this relay.
    """

    def __init__(
        self,
        *,
        seeker: Seeker,
        resumer: Resumer,
        judge: Judge,
        pairs: Pairs,
        quotas: Quotas,
        trail: Trail,
        metrics: StreamMetrics,
        limits: Limits,
    ) -> None:
        self._seeker = seeker
        self._resumer = resumer
        self._judge = judge
        self._pairs = pairs
        self._quotas = quotas
        self._trail = trail
        self._metrics = metrics
        self._carriage = Carriage(trail, metrics)
        self._limits = limits
        self._throttle = Throttle()
        self._draining = False

    def drain(self) -> None:
        """Send away what cannot be served here any more, and all halves."""
        self._draining = True
        self._seeker.drain()
        self._resumer.drain()

    async def serve(self, session: Session, stream: Stream) -> None:
        """Serve one data stream, from its first frame to its end.

        Args:
            session: Who opened it.
            stream: The stream, unread.
        """
        leg, began = Leg(stream, CONSUMER), _now()
        request: Request | Claim | None = None
        try:
            self._quotas.opens.spend(session.uri, session.tenant, _now())
            with self._quotas.opening.place(session.uri, session.tenant) as place:
                request = await self._read_request(session, leg)
                await self._judge.until_known(session.tenant, self._limits.policy_patience)
                if isinstance(request, Claim):
                    place.leave()
                    await self._resumer.serve(session, leg, request)
                else:
                    await self._open(session, leg, request, place, began)
        except StreamRejected as refusal:
            if self._draining and GOAWAY in session.features and refusal.code in ABSENT:
                self._drop(session, leg, DRAINING, ErrorCode.DRAIN, request=request)
                return
            await self._refuse(session, leg, refusal, request.call if request else None)
        except (RemoteProtocolError, Reset, TimeoutError) as error:
            self._drop(session, leg, str(error) or "no frame came", request=request)
        except Closed:
            pass  # with the session

    async def _read_request(self, session: Session, leg: Leg) -> Request | Claim:
        frames = FrameReader(leg.stream, self._limits.frame_bytes)
        async with asyncio.timeout(self._limits.first_frame_timeout):
            request = await read_request(frames, session)
        leg.early = frames.rest()
        leg.on_reset = partial(session.say_ended, request.call.stream_id)
        return request

    def _decide(self, call: Call) -> Verdict:
        """The caller's side of policy, where there is a place for the call; or StreamRejected."""
        self._pairs.check(call)
        if not self._trail.has_room(call.tenant):
            raise StreamRejected(RejectCode.LIMIT, "the relay has no room to audit it")
        verdict = self._judge.judge_caller(call)
        if not verdict.allow:
            raise StreamRejected(RejectCode.DENIED, self._judge.count(verdict).reason)
        return verdict

    # ---- from the decision to the end ----------------------------------------------------

    async def _open(
        self, session: Session, leg: Leg, request: Request, place: Place, began: float
    ) -> None:
        call = request.call
        deadline = _now() + self._limits.open_timeout
        with self._pairs.seeking(call):
            choice, caller_side = await self._find(call, deadline)
        pair = Pair(call=call, consumer=session, provider=choice.provider)
        with self._pairs.holding(pair):
            try:
                providers_leg, verdict = await _while_awaited(
                    leg, self._seeker.connect(pair, choice, caller_side, deadline)
                )
            except Reset as given_up:
                self._trail.rejected(call, GIVEN_UP)
                self._drop(session, leg, GIVEN_UP, given_up.code, request=request)
                return
            _check_revoked(pair, providers_leg)
            place.leave()
            splice = self._carriage.join(pair, leg, providers_leg)
            announce(pair, request.consumers_id, verdict)
            self._metrics.open_duration.observe(_now() - began)
            self._opened(pair, verdict)
            await self._carriage.run(pair, splice)

    async def _find(self, call: Call, deadline: float) -> tuple[Choice, Verdict]:
        """Whom to ask first, and why the caller may make the call; both as of now."""
        while True:
            caller_side = self._decide(call)
            if choice := self._seeker.first(call, caller_side):
                return choice, caller_side
            await self._seeker.wait_for_one(call, caller_side, deadline)

    def _opened(self, pair: Pair, verdict: Verdict) -> None:
        call, provider = pair.call, pair.provider.uri
        self._trail.opened(call, provider, verdict.reason)
        log.info(
            "stream opened",
            stream_id=call.stream_name,
            consumer=call.caller,
            provider=provider,
            service=call.service,
            carrier=pair.consumer.connection.carrier,
        )
        self._metrics.opened.inc()

    def _drop(
        self,
        session: Session,
        leg: Leg,
        reason: str,
        code: ErrorCode = ErrorCode.PROTOCOL,
        *,
        request: Request | Claim | None,
    ) -> None:
        """End a stream that never began."""
        leg.abandon(code)
        self._metrics.ended.labels(code.name.lower()).inc()
        self._throttle.write(
            log.info,
            "stream dropped",
            cause=session.uri,
            **_names(request.call if request else None),
            consumer=session.uri,
            reason=reason,
        )

    async def _refuse(
        self, session: Session, leg: Leg, refusal: StreamRejected, call: Call | None = None
    ) -> None:
        """Tell the consumer on its data stream, and end that; record it if it was read."""
        if call is not None:
            self._trail.rejected(call, str(refusal))
        self._metrics.ended.labels(str(int(refusal.code))).inc()
        self._throttle.write(
            log.info,
            "stream refused",
            cause=(session.uri, refusal.code),
            **_names(call),
            consumer=session.uri,
            code=int(refusal.code),
            reason=refusal.reason,
        )
        frame = orp.StreamReject(code=refusal.code, reason=refusal.reason)
        try:
            await leg.stream.write(encode(FrameType.STREAM_REJECT, frame))
        except TransportError:
            leg.abandon(ErrorCode.CANCELLED)  # the consumer gave up before
        else:
            leg.stream.finish()
            leg.stream.stop(ErrorCode.CANCELLED)


async def _while_awaited(
    leg: Leg, connecting: Coroutine[object, object, tuple[Leg, Verdict]]
) -> tuple[Leg, Verdict]:
    """What ``connecting`` returns, a provider's leg first, if the consumer still waits for it.

    Raises:
        Reset: It does not. It may have given up while the provider accepted.
    """
    connected: tuple[Leg, Verdict] | None = None
    try:
        async with beside(leg.stream.wait_finished(), name="relay: stream, consumer"):
            connected = await connecting
    except BaseException as error:
        if connected:
            connected[0].abandon(ErrorCode.CANCELLED)
        if isinstance(error, ExceptionGroup):
            raise error.exceptions[0] from None
        raise
    return connected


class _Names(TypedDict):
    """What a line calls a stream and its service."""

    stream_id: NotRequired[str]
    service: NotRequired[str]


def _names(call: Call | None) -> _Names:
    """The names of a stream, as far as they have been read."""
    if call is None:
        return {}
    if not call.stream_id:
        return {"service": call.service}
    return {"stream_id": call.stream_name, "service": call.service}


def _now() -> float:
    return asyncio.get_running_loop().time()


def _check_revoked(pair: Pair, providers_leg: Leg) -> None:
    """Policy may have changed while the provider was asked."""
    if pair.revoked:
        providers_leg.abandon(ErrorCode.DENIED)
        raise StreamRejected(RejectCode.DENIED, pair.revoked)

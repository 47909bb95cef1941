"""Opening a stream: decided from memory, answered by the provider, then spliced.

    consumer            relay                         provider
    OPEN_STREAM ------>  places, caller-side policy
                         directory, callee-side policy
                         INCOMING_STREAM ----------->
                         <----------- STREAM_ACCEPT | STREAM_REJECT
    <- STREAM_READY      STREAM_READY --------------> (both on the control streams)
    <========= raw bytes, both ways =========>

Invariants: no decision waits for the controller; a consumer learns nothing of other
tenants; every decision is recorded, and one that cannot be recorded is no.

Source: protocol.md section 5.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass

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
from outrelay.lib.orp.frame import Frame, FrameType, encode
from outrelay.lib.orp.types import decode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.policy import P2PMode, RelayMode, Verdict
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.transport.frames import FrameReader
from outrelay.relay.audit.trail import Trail
from outrelay.relay.call import Call, is_method, is_service_name
from outrelay.relay.clock import unix_ms
from outrelay.relay.directory import Directory
from outrelay.relay.edge.session import Session
from outrelay.relay.limits import Limits
from outrelay.relay.pairs import Pair, Pairs
from outrelay.relay.policy.judge import Judge
from outrelay.relay.splice import CONSUMER, PROVIDER, Ending, Leg, Splice

log = get_logger(__name__)

LONGEST_REASON = 512
"""Characters of a provider's reason that are passed on."""

REJECT_CODES = frozenset(RejectCode)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """An OPEN_STREAM: the call, and the id by which the consumer knows it (0: by none)."""

    call: Call
    consumers_id: int


class Opener:
    """Serves the data streams that agents open.

    Args:
        relay_id: This relay's.
        directory: Who offers what.
        judge: What policy says.
        pairs: The streams carried.
        trail: Where everything is recorded.
        metrics: Counts streams and their bytes.
        limits: Of this relay.
    """

    def __init__(
        self,
        *,
        relay_id: str,
        directory: Directory,
        judge: Judge,
        pairs: Pairs,
        trail: Trail,
        metrics: StreamMetrics,
        limits: Limits,
    ) -> None:
        self._relay_id = relay_id
        self._directory = directory
        self._judge = judge
        self._pairs = pairs
        self._trail = trail
        self._metrics = metrics
        self._limits = limits
        self._throttle = Throttle()

    async def serve(self, session: Session, stream: Stream) -> None:
        """Serve one data stream, from its first frame to its end.

        Args:
            session: Who opened it.
            stream: The stream, unread.
        """
        leg = Leg(stream, CONSUMER)
        try:
            request = await self._read_request(session, leg)
        except StreamRejected as refusal:
            await self._refuse(session, leg, refusal)
        except (RemoteProtocolError, Reset, TimeoutError) as error:
            self._drop(session, leg, str(error) or "no frame came")
        except Closed:
            pass  # with the session
        else:
            await self._open(session, leg, request)

    # ---- the request ---------------------------------------------------------------------

    async def _read_request(self, session: Session, leg: Leg) -> _Request:
        frames = FrameReader(leg.stream, self._limits.frame_bytes)
        async with asyncio.timeout(self._limits.open_timeout):
            frame = await frames.next_frame()
        if frame is None:
            raise RemoteProtocolError("ended before its first frame")
        message = _open_stream(frame)
        leg.early = frames.rest()
        _check(message, session)
        call = Call(
            tenant=session.tenant,
            caller=session.uri,
            service=message.target_service,
            method=message.method,
            stream_id=message.stream_id or _draw_id(),
        )
        return _Request(call=call, consumers_id=message.stream_id)

    # ---- the decision --------------------------------------------------------------------

    def _decide(self, session: Session, call: Call) -> tuple[Pair, Verdict]:
        """Who is to serve the call, or StreamRejected; nothing here waits."""
        self._pairs.check(call)
        if self._trail.full:
            raise StreamRejected(RejectCode.LIMIT, "the relay's audit queue is full")
        verdict = self._judge.judge_caller(call)
        if not verdict.allow:
            raise StreamRejected(RejectCode.DENIED, self._judge.count(verdict).reason)
        provider, verdict = self._choose(call, verdict)
        _check_modes(self._judge.count(verdict))
        return Pair(call=call, consumer=session, provider=provider), verdict

    def _choose(self, call: Call, caller_side: Verdict) -> tuple[Session, Verdict]:
        """The next provider in turn that may offer the service and takes this caller."""
        denied: Verdict | None = None
        for provider in self._directory.providers(call.tenant, call.service):
            if not self._judge.judge_registration(call.tenant, provider.uri, call.service).allow:
                continue
            verdict = caller_side.combined(self._judge.judge_callee(call, provider.uri))
            if verdict.allow:
                return provider, verdict
            denied = verdict
        if denied is not None:
            raise StreamRejected(RejectCode.DENIED, self._judge.count(denied).reason)
        if others := self._directory.relays_of(call.tenant, call.service) - {self._relay_id}:
            raise StreamRejected(
                RejectCode.UNREACHABLE,
                f"its providers are attached to other relays: {', '.join(sorted(others))}",
            )
        raise StreamRejected(RejectCode.NOT_FOUND, f"no agent offers the service {call.service}")

    # ---- from the decision to the end ----------------------------------------------------

    async def _open(self, session: Session, leg: Leg, request: _Request) -> None:
        call = request.call
        try:
            pair, verdict = self._decide(session, call)
            with self._pairs.holding(pair):
                providers_leg = await self._invite(pair)
                _check_revoked(pair, providers_leg)
                pair.opened_ms = unix_ms()
                pair.splice = Splice(
                    leg, providers_leg, self._metrics.bytes_up.inc, self._metrics.bytes_down.inc
                )
                _announce(pair, request.consumers_id, verdict)
                await self._splice(pair, pair.splice, verdict)
        except StreamRejected as refusal:
            self._trail.rejected(call, str(refusal))
            await self._refuse(session, leg, refusal, call)

    async def _invite(self, pair: Pair) -> Leg:
        """The leg of a provider that accepted, or StreamRejected."""
        limit = self._limits.open_timeout
        try:
            async with asyncio.timeout(limit):
                leg = Leg(await pair.provider.connection.open_stream(), PROVIDER)
                await self._ask(pair.call, leg)
                return leg
        except TimeoutError:
            raise StreamRejected(
                RejectCode.TIMEOUT, f"the provider did not answer within {limit:g} s"
            ) from None
        except (TransportError, RemoteProtocolError) as error:
            raise StreamRejected(RejectCode.UNREACHABLE, f"the provider: {error}") from error

    async def _ask(self, call: Call, leg: Leg) -> None:
        """Send INCOMING_STREAM and take the answer; a leg that is not accepted is ended."""
        incoming = orp.IncomingStream(
            target_service=call.service,
            method=call.method,
            source_agent_uri=call.caller,
            stream_id=call.stream_id,
        )
        frames = FrameReader(leg.stream, self._limits.frame_bytes)
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

    async def _splice(self, pair: Pair, splice: Splice, verdict: Verdict) -> None:
        call, provider = pair.call, pair.provider.uri
        started = time.monotonic()
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
        self._metrics.open.inc()
        try:
            await splice.run()
        finally:
            self._ended(call, provider, splice, time.monotonic() - started)

    def _ended(self, call: Call, provider: str, splice: Splice, seconds: float) -> None:
        ending, up, down = splice.ending, splice.up.bytes, splice.down.bytes
        self._metrics.open.dec()
        self._metrics.ended.labels(_result(ending)).inc()
        reason = f"{ending.reason} ({ending.code.name})" if ending.code else ending.reason
        self._trail.closed(call, provider, reason, up=up, down=down, seconds=seconds)
        log.info(
            "stream ended",
            stream_id=call.stream_name,
            reason=reason,
            bytes_up=up,
            bytes_down=down,
            seconds=round(seconds, 3),
        )

    def _drop(self, session: Session, leg: Leg, reason: str) -> None:
        """End a stream that never began."""
        leg.abandon(ErrorCode.PROTOCOL)
        self._metrics.ended.labels(ErrorCode.PROTOCOL.name.lower()).inc()
        self._throttle.write(
            log.info, "stream dropped", cause=session.uri, consumer=session.uri, reason=reason
        )

    async def _refuse(
        self, session: Session, leg: Leg, refusal: StreamRejected, call: Call | None = None
    ) -> None:
        """Tell the consumer on its data stream, and end that."""
        self._metrics.ended.labels(str(int(refusal.code))).inc()
        self._throttle.write(
            log.info,
            "stream refused",
            cause=(session.uri, refusal.code),
            stream_id=call.stream_name if call else "",
            consumer=session.uri,
            service=call.service if call else "",
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


def _open_stream(frame: Frame) -> orp.OpenStream:
    """The first frame of a data stream, or the error it is: protocol.md sections 2 and 3."""
    if frame.type not in FrameType.__members__.values():
        raise RemoteProtocolError(f"unknown frame {frame.name}")
    if frame.type != FrameType.OPEN_STREAM:
        raise StreamRejected(
            RejectCode.MALFORMED, f"a stream begins with OPEN_STREAM, not {frame.name}"
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
    if message.stream_id == 0 and not session.plain:
        raise StreamRejected(RejectCode.MALFORMED, "stream_id is 0")


def _draw_id() -> int:
    """An id for the stream of a consumer that gave none."""
    return secrets.randbelow(2**64 - 1) + 1


def _check_modes(verdict: Verdict) -> None:
    """Policy's promises about the path: kept, or the stream is refused."""
    if verdict.p2p_mode is P2PMode.REQUIRED:
        raise StreamRejected(
            RejectCode.DENIED, "policy requires a direct path, which these agents cannot make"
        )
    if verdict.relay_mode is RelayMode.FORWARD:
        raise StreamRejected(
            RejectCode.UNREACHABLE, "policy requires forward mode, and this relay has no such plane"
        )


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


def _check_revoked(pair: Pair, providers_leg: Leg) -> None:
    """Policy may have changed while the provider was asked."""
    if pair.revoked:
        providers_leg.abandon(ErrorCode.DENIED)
        raise StreamRejected(RejectCode.DENIED, pair.revoked)


def _announce(pair: Pair, consumers_id: int, verdict: Verdict) -> None:
    """Send both agents STREAM_READY."""
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


def _result(ending: Ending) -> str:
    return ending.code.name.lower() if ending.code else "closed"

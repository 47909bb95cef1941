"""Going on with a stream that lost a connection: two halves become one stream again.

    agent                relay                         agent
    STREAM_RESUME ---->  the half waits
                         the other half  <----------- STREAM_RESUME
                         policy, both sides
    <---- STREAM_RESUME  each gets the other's ------> STREAM_RESUME
    <========= raw bytes, both ways =========>

Invariants: a stream goes on only as policy has it now, and that is recorded. Whoever owns a leg
of a live stream may leave it for a half; nobody else is let near the stream. A half waits for
``resume_window`` at most, and what it sends meanwhile is bounded.

Source: protocol.md section 6.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from outrelay.lib.errors import (
    ErrorCode,
    RejectCode,
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
from outrelay.relay.audit.trail import Trail
from outrelay.relay.call import Call
from outrelay.relay.edge.carry import Carriage
from outrelay.relay.edge.claim import Claim
from outrelay.relay.edge.early import Early
from outrelay.relay.edge.halves import Halves, Meeting, Party
from outrelay.relay.edge.seek import objection
from outrelay.relay.edge.session import RESUME, Roster, Session
from outrelay.relay.limits import Limits
from outrelay.relay.matching import Half, Match
from outrelay.relay.pairs import Pair, Pairs
from outrelay.relay.policy.judge import Judge
from outrelay.relay.quotas import Quotas
from outrelay.relay.splice import CONSUMER, PROVIDER, Leg

log = get_logger(__name__)

CALL_AFTER = 0.5
"""Seconds a half waits before the other agent is called: mostly that comes by itself. It is
called again after twice as long each time: it may have been away."""


class Resumer:
    """Serves the data streams that begin with STREAM_RESUME.

    Args:
        roster: Knows what agents offer.
        judge: What policy says.
        pairs: The streams carried.
        quotas: How many halves may wait.
        trail: Where everything is recorded.
        metrics: Counts streams and their bytes.
        limits: Of this relay.
    """

    def __init__(
        self,
        *,
        roster: Roster,
        judge: Judge,
        pairs: Pairs,
        quotas: Quotas,
        trail: Trail,
        metrics: StreamMetrics,
        limits: Limits,
    ) -> None:
        self._roster = roster
        self._judge = judge
        self._pairs = pairs
        self._quota = quotas.halves
        self._trail = trail
        self._metrics = metrics
        self._carriage = Carriage(trail, metrics)
        self._limits = limits
        self._early = Early(limits.frame_bytes, limits.early_bytes)
        self._halves = Halves(self._service_between)
        self._draining = False
        self._throttle = Throttle()

    def drain(self) -> None:
        """Have all halves offered to another relay."""
        self._draining = True
        self._halves.end(ErrorCode.DRAIN)

    async def serve(self, session: Session, leg: Leg, claim: Claim) -> None:
        """Serve a half, from its first frame to its end.

        Args:
            session: Who offers it.
            leg: Its data stream, the first frame taken.
            claim: That.

        Raises:
            StreamRejected: It is refused; its agent has to be told.
            RemoteProtocolError: Its agent does not wait for the other half.
            Closed: Its connection is gone.
        """
        party = Party(claim=claim, session=session, leg=leg)
        try:
            refusal = await self._serve(party)
            if isinstance(refusal, StreamRejected):
                raise refusal
        except StreamRejected as rejected:
            self._metrics.resumes.labels(str(int(rejected.code))).inc()
            raise
        if refusal is not None:
            self._end(party, refusal)

    async def _serve(self, party: Party) -> StreamRejected | ErrorCode | None:
        """Why it was not joined with another; None: it was."""
        if self._draining:
            return ErrorCode.DRAIN
        self._leave_live(party.half)
        if self._halves.join(party):
            return await party.decided
        with self._halves.wait(party) as waiting:
            loop = asyncio.get_running_loop()
            began = loop.time()
            try:
                with (
                    self._quota.place(party.session.uri, party.session.tenant),
                    self._calling(party.half),
                ):
                    met = await self._met(party.leg, waiting.met)
            except TimeoutError:
                return ErrorCode.EXPIRED
            except Reset:
                return ErrorCode.CANCELLED  # its agent has given it up
            if isinstance(met, ErrorCode):
                return met
            return await self._resume(party, met, loop.time() - began)

    @contextmanager
    def _calling(self, half: Half) -> Iterator[None]:
        """Call the other agent as long as the body waits for it."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle

        def call_in(seconds: float) -> None:
            nonlocal timer
            timer = loop.call_later(seconds, again, 2 * seconds)

        def again(seconds: float) -> None:
            self._call(half)
            call_in(seconds)

        call_in(CALL_AFTER)
        try:
            yield
        finally:
            timer.cancel()

    def _call(self, half: Half) -> None:
        """Tell the other agent that it is waited for: it may take the stream for ended."""
        for session in self._roster.of(half.peer):
            if session.tenant == half.tenant and RESUME in session.features:
                ended = orp.StreamEnded(stream_id=half.stream_id, code=ErrorCode.LEG_LOST)
                session.send(FrameType.STREAM_ENDED, ended)

    async def _met(self, leg: Leg, met: asyncio.Future[Meeting | ErrorCode]) -> Meeting | ErrorCode:
        async with asyncio.timeout(self._limits.resume_window):
            async with self._early.heard(leg):
                return await met

    # ---- live streams --------------------------------------------------------------------

    def _leave_live(self, half: Half) -> Pair | None:
        """End the live stream that ``half`` is of: its agent has left its leg.

        Returns:
            The stream, which ends now.

        Raises:
            StreamRejected: It is others' stream, or not yet one.
        """
        pair = self._pairs.find(*half.key)
        if pair is None:
            return None
        if pair.splice is None or half.agent not in (pair.consumer.uri, pair.provider.uri):
            raise StreamRejected(RejectCode.ID_IN_USE, "stream id already in use")
        side = CONSUMER if half.agent == pair.consumer.uri else PROVIDER
        pair.splice.abandon(ErrorCode.LEG_LOST, f"the {side} resumes it")
        return pair

    # ---- two halves ----------------------------------------------------------------------

    async def _resume(self, party: Party, meeting: Meeting, waited: float) -> StreamRejected | None:
        """Join the two, after so many seconds, and carry the stream to its end; or why not."""
        joined = meeting.joined
        consumer, provider = meeting.sides(party)
        call = _call(meeting.match)
        try:
            while pair := self._leave_live(party.half):
                await pair.over.wait()
            verdict = self._decide(call, provider.session.uri)
        except StreamRejected as refusal:
            joined.decide(refusal)
            return refusal
        consumer.leg.side, provider.leg.side = CONSUMER, PROVIDER
        pair = Pair(call=call, consumer=consumer.session, provider=provider.session)
        with self._pairs.holding(pair):
            splice = self._carriage.join(pair, consumer.leg, provider.leg)
            joined.decide(None)
            self._resumed(pair, verdict, waited)
            await _echo(consumer, provider)
            await self._carriage.run(pair, splice, party.leg.side)
        return None

    def _decide(self, call: Call, provider: str) -> Verdict:
        """What policy says now, where there is a place for the stream.

        Raises:
            StreamRejected: There is none, or it says no.
        """
        self._pairs.check(call)
        if not self._trail.has_room(call.tenant):
            raise StreamRejected(RejectCode.LIMIT, "the relay has no room to audit it")
        verdict = self._judge.judge_registration(call.tenant, provider, call.service)
        if verdict.allow:
            verdict = self._judge.judge_live(call, provider)
        if refusal := objection(self._judge.count(verdict)):
            raise refusal
        return verdict

    def _service_between(self, consumer: Half, provider: Half) -> str:
        """See ``MayCall``."""
        for session in self._roster.of(provider.agent):
            for service in session.services:
                call = Call(tenant=consumer.tenant, caller=consumer.agent, service=service)
                if self._judge.judge_live(call, provider.agent).allow:
                    return service
        return ""

    # ---- what is told --------------------------------------------------------------------

    def _resumed(self, pair: Pair, verdict: Verdict, waited: float) -> None:
        call, provider = pair.call, pair.provider.uri
        self._trail.resumed(call, provider, verdict.reason)
        self._metrics.resumes.labels("resumed").inc()
        self._metrics.resume_pause.observe(waited)
        log.info(
            "stream resumed",
            stream_id=call.stream_name,
            consumer=call.caller,
            provider=provider,
            service=call.service,
        )

    def _end(self, party: Party, code: ErrorCode) -> None:
        """End a half that was not joined with another."""
        party.leg.abandon(code)
        self._metrics.resumes.labels(code.name.lower()).inc()
        self._metrics.ended.labels(code.name.lower()).inc()
        reason = code.name
        if code is ErrorCode.EXPIRED:
            reason = self._why_expired(party.half)
            self._trail.rejected(party.claim.call, reason)
        self._throttle.write(
            log.info,
            "half of a stream dropped",
            cause=(party.session.uri, code),
            stream_id=party.claim.call.stream_name,
            agent=party.session.uri,
            service=party.half.service,
            reason=reason,
        )

    def _why_expired(self, half: Half) -> str:
        reason = f"the other half did not come within {self._limits.resume_window:g} s"
        sessions = self._roster.of(half.peer)
        if not sessions:
            return f"{reason}: its agent is not connected here"
        if not any(RESUME in session.features for session in sessions):
            return f"{reason}: its agent has no {RESUME}"
        return f"{reason}: its agent is connected, and was restarted or has ended the stream"


def _call(match: Match) -> Call:
    """What the two halves are of, as it would be asked for."""
    return Call(
        tenant=match.consumer.tenant,
        caller=match.consumer.agent,
        service=match.service,
        method=match.method,
        stream_id=match.consumer.stream_id,
    )


async def _echo(consumer: Party, provider: Party) -> None:
    """Tell each agent where the other one is; a leg that is lost shows when it is carried."""
    for party, other in ((consumer, provider), (provider, consumer)):
        frame = encode(FrameType.STREAM_RESUME, other.claim.echo(party.session))
        with suppress(TransportError):
            await party.leg.stream.write(frame)

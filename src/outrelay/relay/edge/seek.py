"""Finding a provider for a call: one is asked after the other, until one accepts.

Words: a *candidate* is a session that offers the service, may offer it, and whose side of
policy takes the caller. One *try* is one candidate asked; ``relay.choice`` has the order.

- A try that fails for a reason of the provider's own is followed by another one, as long as
  there are candidates and tries. Any other refusal is the call's, and the consumer's answer.
- While another candidate is left, a provider has ``provider_patience`` to answer; the last one
  has what is left of ``open_timeout``, within which all tries together stay.
- Candidates are looked up anew for each try: who has left or withdrawn meanwhile is not asked.
- Where there is nobody, but somebody is on the way (here until lately, or attached to another
  relay that may be leaving), that one is waited for a little.

Invariant: of a try that failed nothing is left, whatever its provider still says.

Source: protocol.md sections 3 and 5; docs/decisions/0008-choice-of-providers.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import count

from outrelay.lib.errors import Closed, RejectCode, StreamRejected
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.metrics import ProviderMetrics
from outrelay.lib.observe.throttle import Throttle
from outrelay.lib.policy import P2PMode, RelayMode, Verdict
from outrelay.relay.call import Call
from outrelay.relay.choice import Candidate, in_order
from outrelay.relay.directory import Directory
from outrelay.relay.edge.invite import invite
from outrelay.relay.edge.session import Session
from outrelay.relay.limits import Limits
from outrelay.relay.pairs import Pair, Pairs
from outrelay.relay.policy.judge import Judge
from outrelay.relay.splice import Leg

log = get_logger(__name__)

Elsewhere = Callable[[str, str], Awaitable[set[str]]]
"""The ids of the relays behind which a tenant's service is."""

UNWELL = frozenset(
    {RejectCode.NOT_FOUND, RejectCode.UNREACHABLE, RejectCode.REJECTED, RejectCode.TIMEOUT}
)
"""Refusals that the next call would get, too: the provider rests. Also 404: it still says that
it offers the service, and has lost what it offers."""

UNWILLING = frozenset({RejectCode.DENIED, RejectCode.LIMIT})
"""Refusals of a provider that is well: this caller, or one stream more."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The provider to ask next.

    Args:
        provider: Who.
        verdict: Why it may be asked; both sides of policy.
        is_only: Whether nobody else is left.
    """

    provider: Session
    verdict: Verdict
    is_only: bool


class Seeker:
    """Finds providers.

    Args:
        relay_id: This relay's.
        directory: Who offers what.
        elsewhere: Asked behind which relays a service is that nobody offers here.
        judge: What policy says.
        pairs: Told who is asked.
        metrics: Counts tries that fail.
        limits: Of this relay.
    """

    def __init__(
        self,
        *,
        relay_id: str,
        directory: Directory,
        elsewhere: Elsewhere,
        judge: Judge,
        pairs: Pairs,
        metrics: ProviderMetrics,
        limits: Limits,
    ) -> None:
        self._relay_id = relay_id
        self._directory = directory
        self._elsewhere = elsewhere
        self._judge = judge
        self._pairs = pairs
        self._metrics = metrics
        self._limits = limits
        self._arrival_patience = limits.arrival_patience
        self._turns = count(1)
        self._throttle = Throttle()

    # ---- whom to ask ---------------------------------------------------------------------

    def first(self, call: Call, caller_side: Verdict) -> Choice | None:
        """Whom to ask first."""
        return self._choose(call, caller_side, frozenset())

    def drain(self) -> None:
        """Wait for nobody any more: whoever is on the way does not come here."""
        self._arrival_patience = 0.0

    async def wait_for_one(self, call: Call, caller_side: Verdict, deadline: float) -> None:
        """Return when there may be somebody to ask, where ``first`` found nobody.

        Args:
            call: What for.
            caller_side: Why the caller may make the call.
            deadline: When that is too late, by the loop's clock.

        Raises:
            StreamRejected: There is nobody.
        """
        if refusal := self._unwilling(call, caller_side):
            raise refusal
        others = await self._elsewhere(call.tenant, call.service) - {self._relay_id}
        is_coming = bool(others) or self._directory.expects(call.tenant, call.service)
        if not (is_coming and await self._arrives(call, deadline)):
            raise _nobody(call, others)

    async def _arrives(self, call: Call, deadline: float) -> bool:
        """Whether somebody begins to offer the service while that is waited for."""
        try:
            async with asyncio.timeout_at(min(_now() + self._arrival_patience, deadline)):
                await self._directory.arrival(call.tenant, call.service)
        except TimeoutError:
            return False
        return True

    def _choose(self, call: Call, caller_side: Verdict, tried: Set[Session]) -> Choice | None:
        """Whom to ask next."""
        willing = (
            (provider, verdict)
            for provider, verdict in self._judged(call, caller_side)
            if provider not in tried and objection(verdict) is None
        )
        found = next(willing, None)
        if found is None:
            return None
        provider, verdict = found
        return Choice(provider, self._judge.count(verdict), next(willing, None) is None)

    def _judged(self, call: Call, caller_side: Verdict) -> Iterator[tuple[Session, Verdict]]:
        """Who may offer the service, in order, each with what both sides say."""
        for provider in self._in_order(call):
            if self._judge.judge_registration(call.tenant, provider.uri, call.service).allow:
                yield provider, caller_side.combined(self._judge.judge_callee(call, provider.uri))

    def _in_order(self, call: Call) -> list[Session]:
        candidates = [
            Candidate(
                provider=session,
                age=age,
                priority=session.services[call.service].priority,
                weight=session.services[call.service].weight,
                streams=session.serving,
                standing=session.standing(call.service),
            )
            for age, session in self._directory.providers(call.tenant, call.service)
        ]
        return [each.provider for each in in_order(candidates, _now())]

    def _unwilling(self, call: Call, caller_side: Verdict) -> StreamRejected | None:
        """Why those who offer the service may not be asked; None: nobody offers it."""
        for _, verdict in self._judged(call, caller_side):
            refusal = objection(self._judge.count(verdict))
            assert refusal is not None, "it would have been chosen"
            return refusal
        return None

    # ---- asking --------------------------------------------------------------------------

    async def connect(
        self, pair: Pair, choice: Choice, caller_side: Verdict, deadline: float
    ) -> tuple[Leg, Verdict]:
        """The leg of the first provider that accepts, and why it was asked.

        Args:
            pair: The stream, held; its provider becomes the one that accepts.
            choice: Whom to ask first.
            caller_side: Why the caller may make the call.
            deadline: When somebody must have, by the loop's clock.

        Raises:
            StreamRejected: Nobody accepted, or the call was revoked meanwhile.
        """
        tried: set[Session] = set()
        refusals: list[StreamRejected] = []
        following: Choice | None = choice
        while following is not None:
            self._pairs.assign(pair, following.provider)
            tried.add(following.provider)
            is_last = len(tried) >= self._limits.provider_tries
            can_wait = is_last or following.is_only
            try:
                leg = await self._ask(pair, self._patience(deadline, can_wait=can_wait))
            except StreamRejected as refusal:
                if refusal.code not in UNWELL | UNWILLING:
                    raise
                refusals.append(refusal)
            else:
                return leg, following.verdict
            following = None
            if not is_last and _now() < deadline:
                following = self._choose(pair.call, caller_side, tried)
            if following is None and isinstance(refusals[-1].__cause__, Closed):
                following = await self._returned(pair.call, caller_side, tried, deadline)
            if pair.revoked:
                raise StreamRejected(RejectCode.DENIED, pair.revoked)
        raise _summary(refusals)

    def _patience(self, deadline: float, *, can_wait: bool) -> float:
        left = deadline - _now()
        return left if can_wait else min(left, self._limits.provider_patience)

    async def _returned(
        self, call: Call, caller_side: Verdict, tried: Set[Session], deadline: float
    ) -> Choice | None:
        """The provider that was lost while it was asked, when it has connected again."""
        has_come = await self._arrives(call, deadline)
        return self._choose(call, caller_side, tried) if has_come else None

    async def _ask(self, pair: Pair, patience: float) -> Leg:
        """The leg of the pair's provider, if it accepts within so many seconds."""
        provider, call = pair.provider, pair.call
        standing = provider.standing(call.service)
        standing.turn = next(self._turns)
        asked_at = _now()
        log.debug("asking a provider", stream_id=call.stream_name, provider=provider.uri)
        try:
            async with asyncio.timeout(patience):
                leg = await invite(provider, call, self._limits.frame_bytes)
        except TimeoutError:
            reason = f"the provider did not answer within {round(patience, 1):g} s"
            refusal = StreamRejected(RejectCode.TIMEOUT, reason)
        except StreamRejected as error:
            refusal = error
        else:
            standing.served()
            return leg
        self._metrics.refused.labels(str(int(refusal.code))).inc()
        if refusal.code in UNWELL and standing.failed(asked_at, _now()):
            self._tell(provider, call, refusal, standing.rest)
        raise refusal

    def _tell(self, provider: Session, call: Call, refusal: StreamRejected, rest: float) -> None:
        self._throttle.write(
            log.warning,
            "provider rests",
            cause=(provider.uri, call.service),
            stream_id=call.stream_name,
            provider=provider.uri,
            session=provider.id,
            service=call.service,
            seconds=rest,
            reason=str(refusal),
        )


def _now() -> float:
    return asyncio.get_running_loop().time()


def _nobody(call: Call, others: Set[str]) -> StreamRejected:
    """Why there is nobody to ask."""
    if not others:
        return StreamRejected(RejectCode.NOT_FOUND, f"no agent offers the service {call.service}")
    return StreamRejected(
        RejectCode.UNREACHABLE,
        f"its providers are attached to other relays: {', '.join(sorted(others))}",
    )


def objection(verdict: Verdict) -> StreamRejected | None:
    """Why policy has the call refused; also where it asks for a path that there is not."""
    if not verdict.allow:
        return StreamRejected(RejectCode.DENIED, verdict.reason)
    if verdict.p2p_mode is P2PMode.REQUIRED:
        return StreamRejected(
            RejectCode.DENIED, "policy requires a direct path, which these agents cannot make"
        )
    if verdict.relay_mode is RelayMode.FORWARD:
        return StreamRejected(
            RejectCode.UNREACHABLE, "policy requires forward mode, and this relay has no such plane"
        )
    return None


def _summary(refusals: Sequence[StreamRejected]) -> StreamRejected:
    """What the consumer is told when nobody accepted.

    The highest code tells most: 5xx and 429 may pass, 403 and 404 will not. Of several with
    that code it is the last.
    """
    telling = max(reversed(refusals), key=lambda refusal: refusal.code)
    if len(refusals) == 1:
        return telling
    reason = f"{telling.reason} (none of the {len(refusals)} providers tried took it)"
    return StreamRejected(telling.code, reason)

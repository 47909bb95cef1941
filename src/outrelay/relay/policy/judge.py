"""What policy says, from memory: no question waits for the controller.

Words: a tenant is *known* while the judge has its rules, all of them: with a controller of
ours every tenant is, with a plain one those whose rules are watched.

Invariant: the world is closed. Without rules, also before the first have come, no stream
is opened. Registering is free until a rule is about it; such an agent is asked again for
each stream it would get, so that a rule that comes later counts from then on.

Source: control-plane.md, Policy; protocol.md section 4, 3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager, suppress

from outrelay.lib.observe.metrics import PolicyMetrics
from outrelay.lib.policy import REGISTER, PolicySet, Rule, Verdict
from outrelay.relay.call import Call
from outrelay.relay.clock import unix_ms

ANYTHING_GOES = Verdict(allow=True, rule=None, reason="allowed by --allow-all")
NO_POLICY_YET = Verdict(
    allow=False, rule=None, reason="this relay has no policy yet: no controller has told it any"
)

FREE_FOR_NOW = Verdict(
    allow=True, rule=None, reason="this relay has no policy yet; asked again at each stream"
)


class Judge:
    """Answers from the newest complete set of rules.

    Args:
        metrics: Counts decisions and rules.
        allow_all: Ask no rules at all; for development.
        now_ms: The time, milliseconds since the epoch.
    """

    def __init__(
        self,
        metrics: PolicyMetrics,
        *,
        allow_all: bool = False,
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self._metrics = metrics
        self._allow_all = allow_all
        self._now_ms = now_ms
        self._rules = PolicySet()
        self._knows_all = False
        self._known: set[str] = set()
        self._expiry_ms = 0  # the first that something allowed depends on; 0: none
        self.revised = asyncio.Event()
        """Set when live streams must be judged again."""
        self.loaded = asyncio.Event()
        """Set once there are rules of some tenant, all of them."""
        self._learnt = asyncio.Event()  # for a moment, whenever there are

    @property
    def rules(self) -> int:
        """How many rules there are."""
        return len(self._rules)

    def rules_of(self, tenant: str) -> int:
        """How many rules there are of a tenant."""
        return len(self._rules.rules(tenant))

    def replace(self, rules: PolicySet) -> None:
        """Decide by exactly these rules from now on: every tenant is known.

        Where there were rules and now are none, live streams go on: a controller that was
        restored or emptied is likelier than one that means to end them all.
        """
        emptied = self.rules > 0 and not len(rules)
        self._rules = rules
        self._knows_all = True
        self._known.clear()
        self._learn()
        self._changed(judge_live=not emptied)

    def replace_tenant(self, tenant: str, rules: Iterable[Rule]) -> None:
        """Decide by exactly these rules of a tenant from now on; see ``replace``."""
        before = self.rules_of(tenant)
        self._rules.replace(rules, tenant=tenant)
        self._known.add(tenant)
        self._learn()
        self._changed(judge_live=not before or self.rules_of(tenant) > 0)

    def keep_only(self, tenants: Set[str]) -> None:
        """Know no other tenants than these: nobody will tell how their rules change."""
        for tenant in self._rules.tenants - tenants:
            self._rules.replace((), tenant=tenant)
        self._known = set(tenants) if self._knows_all else self._known & tenants
        self._knows_all = False
        self._changed(judge_live=False)

    def add(self, rule: Rule) -> None:
        """Add a rule to the current ones."""
        self._rules.add(rule)
        self._changed()

    def remove(self, tenant: str, rule_id: str) -> None:
        """Remove a rule from the current ones, if it is among them."""
        self._rules.remove(tenant, rule_id)
        self._changed()

    async def until_known(self, tenant: str, patience: float) -> None:
        """Return when there are rules to decide by, or after so many seconds.

        A relay that has just started denies nobody for what it will be told in a moment.
        """
        if self._allow_all or self._knows(tenant):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while not self._knows(tenant):
                    await self._learnt.wait()

    def judge_caller(self, call: Call) -> Verdict:
        """The caller side: may the caller reach the service?"""
        if self._allow_all:
            return ANYTHING_GOES
        if not self._knows(call.tenant):
            return NO_POLICY_YET
        return self._decide(call)

    def judge_callee(self, call: Call, provider: str) -> Verdict:
        """The callee side: does ``provider``, of the caller's tenant, accept the caller?"""
        if self._allow_all:
            return ANYTHING_GOES
        if not self._knows(call.tenant):
            return NO_POLICY_YET
        with self._looking_up():
            return self._rules.decide_callee(
                tenant=call.tenant,
                provider=provider,
                caller=call.caller,
                method=call.method,
                now_ms=self._now_ms(),
            )

    def judge_live(self, call: Call, provider: str) -> Verdict:
        """Both sides, for a stream between the two that runs already."""
        verdict = self.judge_caller(call)
        if verdict.allow:
            verdict = verdict.combined(self.judge_callee(call, provider))
        self._note_expiry(verdict)
        return verdict

    def expired(self, now_ms: int) -> bool:
        """Whether something allowed has depended on a rule that no longer decides."""
        if not 0 < self._expiry_ms <= now_ms:
            return False
        self._expiry_ms = 0
        return True

    def judge_registration(self, tenant: str, agent: str, service: str) -> Verdict:
        """May the agent offer the service?"""
        if self._allow_all:
            return ANYTHING_GOES
        if not self._knows(tenant):
            return FREE_FOR_NOW
        call = Call(tenant=tenant, caller=agent, service=service, method=REGISTER)
        return self._decide(call)

    def count(self, verdict: Verdict) -> Verdict:
        """Note that ``verdict`` was acted on."""
        self._metrics.decisions.labels("allow" if verdict.allow else "deny").inc()
        self._note_expiry(verdict)
        return verdict

    def _learn(self) -> None:
        self.loaded.set()
        self._learnt.set()
        self._learnt.clear()

    def _changed(self, *, judge_live: bool = True) -> None:
        self._metrics.rules.set(self.rules)
        if judge_live:
            self.revised.set()

    def _note_expiry(self, verdict: Verdict) -> None:
        if verdict.allow and verdict.expires_ms:
            self._expiry_ms = min(self._expiry_ms or verdict.expires_ms, verdict.expires_ms)

    def _knows(self, tenant: str) -> bool:
        return self._knows_all or tenant in self._known

    def _decide(self, call: Call) -> Verdict:
        with self._looking_up():
            return self._rules.decide(
                tenant=call.tenant,
                caller=call.caller,
                target=call.service,
                method=call.method,
                now_ms=self._now_ms(),
            )

    @contextmanager
    def _looking_up(self) -> Iterator[None]:
        """Count whether the rules remember the answer."""
        before = self._rules.hits
        yield
        (self._metrics.hits if self._rules.hits > before else self._metrics.misses).inc()

"""The decision itself, over any collection of rules.

Of the matching rules the most specific decides; the answer depends on the set of rules,
never on their order. ``PolicySet`` gives the same answers from an index; the functions
that take rules are what it is tested against, and what few rules need.
"""

from __future__ import annotations

from collections.abc import Iterable

from outrelay.lib.policy.rule import REGISTER, CompiledRule, Decision, Rule, Verdict

NO_RULE = Verdict(allow=False, rule=None, reason="no policy rule allows it")
NO_OBJECTION = Verdict(allow=True, rule=None, reason="the provider's side has no rules")
FREE_REGISTRATION = Verdict(allow=True, rule=None, reason="no policy rule is about REGISTER")


def evaluate(
    rules: Iterable[Rule], *, tenant: str, caller: str, target: str, method: str, now_ms: int
) -> Verdict:
    """The caller side: may ``caller`` reach ``target``?

    Args:
        rules: Any rules, of any tenants, in any order.
        tenant: The caller's.
        caller: The caller's identity URI.
        target: The service's name.
        method: What it wants to do; ``REGISTER`` asks whether it may offer the service.
        now_ms: The time, milliseconds since the epoch.

    Source: control-plane.md, Policy, Evaluation; protocol.md section 4, 3 for ``REGISTER``.
    """
    live = [
        CompiledRule.of(rule)
        for rule in rules
        if rule.tenant == tenant and not rule.speaks_for_provider and not rule.expired(now_ms)
    ]
    matching = (
        one
        for one in live
        if one.target.matches(target) and one.caller.matches(caller) and one.covers(method)
    )
    if decider := most_specific(matching):
        return verdict_of(decider.rule)
    if method == REGISTER:
        return registration_verdict(one.rule for one in live if one.covers_register)
    return NO_RULE


def evaluate_callee(
    rules: Iterable[Rule], *, tenant: str, provider: str, caller: str, method: str, now_ms: int
) -> Verdict:
    """The callee side: does ``provider`` accept ``caller``?

    Args:
        rules: Any rules, of any tenants, in any order.
        tenant: The provider's.
        provider: The provider's identity URI.
        caller: The caller's identity URI.
        method: What the caller wants to do.
        now_ms: The time, milliseconds since the epoch.

    Source: control-plane.md, Policy, Evaluation.
    """
    naming = [
        compiled
        for rule in rules
        if rule.tenant == tenant and rule.speaks_for_provider and not rule.expired(now_ms)
        if (compiled := CompiledRule.of(rule)).caller.matches(provider)
    ]
    matching = (one for one in naming if one.target.matches(caller) and one.covers(method))
    if decider := most_specific(matching):
        return verdict_of(decider.rule)
    return callee_verdict(one.rule for one in naming)


def most_specific(matching: Iterable[CompiledRule]) -> CompiledRule | None:
    """The rule that decides among those that match."""
    return max(matching, key=lambda one: one.rank, default=None)


def verdict_of(rule: Rule) -> Verdict:
    """What it means that ``rule`` decides."""
    allow = rule.decision is Decision.ALLOW
    return Verdict(
        allow=allow,
        rule=rule,
        reason=f"{'allowed' if allow else 'denied'} by policy rule {rule.id}",
        p2p_mode=rule.p2p_mode,
        relay_mode=rule.relay_mode,
        expires_ms=rule.expires_ms,
    )


def registration_verdict(about_register: Iterable[Rule]) -> Verdict:
    """No rule matched a registration: it is free unless some live rule is about it."""
    return _closed_by(about_register, "no policy rule allows it to register") or FREE_REGISTRATION


def callee_verdict(naming: Iterable[Rule]) -> Verdict:
    """No rule of the provider matched: no objection unless some live rule names it."""
    return _closed_by(naming, "the provider's policy does not allow it") or NO_OBJECTION


def _closed_by(live: Iterable[Rule], reason: str) -> Verdict | None:
    """Closed until the last of these rules is gone; open (None) when there is none."""
    until = -1
    for rule in live:
        if rule.expires_ms == 0:
            return Verdict(allow=False, rule=None, reason=reason)
        until = max(until, rule.expires_ms)
    if until < 0:
        return None
    return Verdict(allow=False, rule=None, reason=reason, expires_ms=until)

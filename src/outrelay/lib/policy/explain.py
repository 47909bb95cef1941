"""Why policy says what it says: every rule of a tenant, and what became of it.

The verdict is that of ``evaluate`` and ``evaluate_callee``; here is only told how it came
about. Rules of other tenants are not told of.

Source: control-plane.md, Policy, Explain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from outrelay.lib.policy.evaluate import evaluate, evaluate_callee, most_specific
from outrelay.lib.policy.rule import REGISTER, CompiledRule, Decision, Rule, Verdict

NO_PROVIDER = "speaks for a provider, and none was asked about"


@dataclass(frozen=True, slots=True, kw_only=True)
class Considered:
    """What became of one rule.

    Args:
        rule: The rule.
        decides: Whether it decides its side of the call.
        why: Why it does, or why not.
    """

    rule: Rule
    decides: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A verdict and how it came about.

    Args:
        verdict: What would be decided.
        considered: The deciding rules first, then those that match, by what they would
            say next, then the others.
    """

    verdict: Verdict
    considered: tuple[Considered, ...]


def explain(
    rules: Iterable[Rule],
    *,
    tenant: str,
    caller: str,
    target: str,
    method: str,
    now_ms: int,
    provider: str = "",
) -> Explanation:
    """What would be decided about a call, and why not otherwise.

    Args:
        rules: Any rules, of any tenants, in any order.
        tenant: The caller's.
        caller: The caller's identity URI.
        target: The service's name.
        method: What it wants to do.
        now_ms: The time, milliseconds since the epoch.
        provider: The identity URI of the provider whose side is asked too; empty: none.
    """
    own = [rule for rule in rules if rule.tenant == tenant]
    verdict = evaluate(
        own, tenant=tenant, caller=caller, target=target, method=method, now_ms=now_ms
    )
    if provider:
        callee = evaluate_callee(
            own, tenant=tenant, provider=provider, caller=caller, method=method, now_ms=now_ms
        )
        verdict = verdict.combined(callee)
    compiled = [CompiledRule.of(rule) for rule in own]
    caller_side = [one for one in compiled if not one.rule.speaks_for_provider]
    callee_side = [one for one in compiled if one.rule.speaks_for_provider]
    asked = _Question(caller=caller, target=target, method=method, now_ms=now_ms)
    told = _side(caller_side, asked)
    if provider:
        # Such a rule's caller pattern names the provider, its target pattern who may call.
        asked = _Question(caller=provider, target=caller, method=method, now_ms=now_ms)
        told = _merged(told, _side(callee_side, asked))
    else:
        told.others += [_not_deciding(one, NO_PROVIDER) for one in callee_side]
    considered = (*told.deciding, *told.matching, *told.others)
    return Explanation(verdict=verdict, considered=considered)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What the patterns of one side are held against."""

    caller: str
    target: str
    method: str
    now_ms: int


@dataclass(slots=True, kw_only=True)
class _Told:
    """What became of the rules of one side."""

    deciding: list[Considered]
    matching: list[Considered]
    others: list[Considered]


def _merged(one: _Told, other: _Told) -> _Told:
    return _Told(
        deciding=one.deciding + other.deciding,
        matching=one.matching + other.matching,
        others=one.others + other.others,
    )


def _side(rules: Sequence[CompiledRule], asked: _Question) -> _Told:
    faults = [(one, _mismatch(one, asked)) for one in rules]
    matching = [one for one, fault in faults if not fault]
    others = [_not_deciding(one, fault) for one, fault in faults if fault]
    winner = most_specific(matching)
    if winner is None:
        return _Told(deciding=[], matching=[], others=others)
    beaten = sorted(
        (one for one in matching if one is not winner), key=lambda one: one.rank, reverse=True
    )
    why = "the most specific that matches" if beaten else "the only one that matches"
    return _Told(
        deciding=[Considered(rule=winner.rule, decides=True, why=why)],
        matching=[_not_deciding(one, _beaten_by(winner, one)) for one in beaten],
        others=others,
    )


def _not_deciding(one: CompiledRule, why: str) -> Considered:
    return Considered(rule=one.rule, decides=False, why=why)


def _mismatch(one: CompiledRule, asked: _Question) -> str:
    """Why a rule says nothing about the call; empty when it matches."""
    provider_side = one.rule.speaks_for_provider
    if not one.caller.matches(asked.caller):
        return f"the {'provider' if provider_side else 'caller'} does not match"
    if not one.target.matches(asked.target):
        return f"the {'caller' if provider_side else 'target'} does not match"
    if not one.covers(asked.method):
        if asked.method == REGISTER:
            return f"does not speak of {REGISTER}"
        return "the method does not match"
    if one.rule.expired(asked.now_ms):
        return "has expired"
    return ""


def _beaten_by(winner: CompiledRule, one: CompiledRule) -> str:
    """Why ``winner`` decides and not ``one``, which matches as well."""
    by = winner.rule.id
    for part in ("target", "caller", "method"):
        if getattr(winner, part).specificity > getattr(one, part).specificity:
            return f"less specific {part} than that of {by}"
    if winner.rule.decision is Decision.DENY and one.rule.decision is Decision.ALLOW:
        return f"as specific as {by}, and between equals deny wins"
    if winner.rule.created_ms > one.rule.created_ms:
        return f"as specific as {by}, which is newer"
    return f"as specific and as old as {by}, whose id is greater"

"""``PolicySet``: many rules, held so that one decision looks at few of them.

A rule is filed under the pattern of what a decision knows best (the target on the caller
side, the provider on the callee side), and there under its other pattern. An exact
pattern is found by one look-up, a glob by its literal beginning (or, when it begins with
a star, its literal end); only globs like ``*x*`` are tried one by one.

Invariants: for every set of rules and every time, ``decide`` and ``decide_callee`` say what
``evaluate`` and ``evaluate_callee`` say. Decisions are cached until a rule of their tenant
changes or a rule they rest on expires; nothing another tenant does is felt in how long they take,
unless the cache is full and this tenant has the most in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from typing import Generic, TypeVar

from outrelay.lib.policy.evaluate import (
    NO_RULE,
    callee_verdict,
    most_specific,
    registration_verdict,
    verdict_of,
)
from outrelay.lib.policy.pattern import Pattern
from outrelay.lib.policy.rule import REGISTER, CompiledRule, Rule, Verdict

CACHED_DECISIONS = 65_536
"""Of all tenants; when there are more, the one with the most has all of its forgotten."""

CACHED_NAME_LENGTH = 512
"""Longer targets and methods are decided anew each time: peers choose them, we hold them."""

V = TypeVar("V")
_CacheKey = tuple[bool, str, str, str]


class PatternMap(Generic[V]):
    """Values filed under patterns, found by the texts their patterns match."""

    def __init__(self) -> None:
        self._exact: dict[str, V] = {}
        self._prefixed = _Anchored[V]()
        self._suffixed = _Anchored[V]()

    def __bool__(self) -> bool:
        return bool(self._exact or self._prefixed.buckets or self._suffixed.buckets)

    def get(self, pattern: Pattern) -> V | None:
        """The value filed under exactly this pattern."""
        if pattern.exact:
            return self._exact.get(pattern.text)
        return self._side(pattern).get(pattern)

    def put(self, pattern: Pattern, value: V) -> None:
        """File ``value`` under ``pattern``, which has none yet."""
        if pattern.exact:
            self._exact[pattern.text] = value
        else:
            self._side(pattern).put(pattern, value)

    def drop(self, pattern: Pattern) -> None:
        """Forget the value filed under exactly this pattern."""
        if pattern.exact:
            del self._exact[pattern.text]
        else:
            self._side(pattern).drop(pattern)

    def matching(self, text: str) -> Iterator[V]:
        """The values whose patterns match ``text``."""
        if (value := self._exact.get(text)) is not None:
            yield value
        for length, buckets in self._prefixed.buckets.items():
            yield from _fitting(buckets.get(text[:length]), text)
        for length, buckets in self._suffixed.buckets.items():
            yield from _fitting(buckets.get(text[-length:]), text)

    def values(self) -> Iterator[V]:
        """Every value."""
        yield from self._exact.values()
        for side in (self._prefixed, self._suffixed):
            for buckets in side.buckets.values():
                for bucket in buckets.values():
                    for _, value in bucket.values():
                        yield value

    def _side(self, glob: Pattern) -> _Anchored[V]:
        return self._suffixed if glob.suffix and not glob.prefix else self._prefixed


_Bucket = dict[str, tuple[Pattern, V]]


class _Anchored(Generic[V]):
    """Globs by the literal text at one of their ends, grouped by its length."""

    def __init__(self) -> None:
        self.buckets: dict[int, dict[str, _Bucket[V]]] = {}

    def get(self, glob: Pattern) -> V | None:
        anchor = glob.prefix or glob.suffix
        entry = self.buckets.get(len(anchor), {}).get(anchor, {}).get(glob.text)
        return entry[1] if entry else None

    def put(self, glob: Pattern, value: V) -> None:
        anchor = glob.prefix or glob.suffix
        same_length = self.buckets.setdefault(len(anchor), {})
        same_length.setdefault(anchor, {})[glob.text] = (glob, value)

    def drop(self, glob: Pattern) -> None:
        anchor = glob.prefix or glob.suffix
        same_length = self.buckets[len(anchor)]
        del same_length[anchor][glob.text]
        if not same_length[anchor]:
            del same_length[anchor]
        if not same_length:
            del self.buckets[len(anchor)]


def _fitting(bucket: _Bucket[V] | None, text: str) -> Iterator[V]:
    if bucket:
        for pattern, value in bucket.values():
            if pattern.matches(text):
                yield value


_RuleMap = PatternMap[dict[str, CompiledRule]]


class _Side:
    """The rules of one side of one tenant, filed under two patterns."""

    def __init__(self) -> None:
        self._map = PatternMap[_RuleMap]()

    def add(self, outer: Pattern, inner: Pattern, compiled: CompiledRule) -> None:
        rules_of_outer = self._map.get(outer)
        if rules_of_outer is None:
            rules_of_outer = _RuleMap()
            self._map.put(outer, rules_of_outer)
        rules = rules_of_outer.get(inner)
        if rules is None:
            rules = {}
            rules_of_outer.put(inner, rules)
        rules[compiled.rule.id] = compiled

    def remove(self, outer: Pattern, inner: Pattern, rule_id: str) -> None:
        rules_of_outer = self._map.get(outer)
        assert rules_of_outer is not None, "only what was added is removed"
        rules = rules_of_outer.get(inner)
        assert rules is not None, "only what was added is removed"
        del rules[rule_id]
        if not rules:
            rules_of_outer.drop(inner)
        if not rules_of_outer:
            self._map.drop(outer)

    def matching(self, outer: str, inner: str) -> Iterator[CompiledRule]:
        """Rules whose two patterns match."""
        for rules_of_outer in self._map.matching(outer):
            for rules in rules_of_outer.matching(inner):
                yield from rules.values()

    def naming(self, outer: str) -> Iterator[CompiledRule]:
        """Rules whose outer pattern matches."""
        for rules_of_outer in self._map.matching(outer):
            for rules in rules_of_outer.values():
                yield from rules.values()


class _Tenant:
    """The rules of one tenant."""

    def __init__(self) -> None:
        self.rules: dict[str, CompiledRule] = {}
        self.cache: dict[_CacheKey, Verdict] = {}
        self._callers = _Side()
        self._callees = _Side()
        self._about_register: dict[str, CompiledRule] = {}

    def add(self, rule: Rule) -> None:
        self.remove(rule.id)
        compiled = CompiledRule.of(rule)
        self.rules[rule.id] = compiled
        if rule.speaks_for_provider:
            self._callees.add(compiled.caller, compiled.target, compiled)
            return
        self._callers.add(compiled.target, compiled.caller, compiled)
        if compiled.covers_register:
            self._about_register[rule.id] = compiled

    def remove(self, rule_id: str) -> bool:
        compiled = self.rules.pop(rule_id, None)
        if compiled is None:
            return False
        if compiled.rule.speaks_for_provider:
            self._callees.remove(compiled.caller, compiled.target, rule_id)
        else:
            self._callers.remove(compiled.target, compiled.caller, rule_id)
            self._about_register.pop(rule_id, None)
        return True

    def decide(self, caller: str, target: str, method: str, now_ms: int) -> Verdict:
        live = _live(self._callers.matching(target, caller), now_ms)
        if decider := most_specific(one for one in live if one.covers(method)):
            return verdict_of(decider.rule)
        if method == REGISTER:
            return self.unmatched_registration(now_ms)
        return NO_RULE

    def unmatched_registration(self, now_ms: int) -> Verdict:
        live = _live(self._about_register.values(), now_ms)
        return registration_verdict(one.rule for one in live)

    def decide_callee(self, provider: str, caller: str, method: str, now_ms: int) -> Verdict:
        live = _live(self._callees.matching(provider, caller), now_ms)
        if decider := most_specific(one for one in live if one.covers(method)):
            return verdict_of(decider.rule)
        return callee_verdict(one.rule for one in _live(self._callees.naming(provider), now_ms))


def _live(rules: Iterable[CompiledRule], now_ms: int) -> Iterator[CompiledRule]:
    return (one for one in rules if not one.rule.expired(now_ms))


_NOBODY = _Tenant()


class PolicySet:
    """Rules of any number of tenants, and decisions on them."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._tenants: defaultdict[str, _Tenant] = defaultdict(_Tenant)
        self._cached = 0
        self.hits = 0
        """Decisions that were remembered."""
        for rule in rules:
            self.add(rule)

    def __len__(self) -> int:
        return sum(len(tenant.rules) for tenant in self._tenants.values())

    @property
    def tenants(self) -> Set[str]:
        """Those that have rules."""
        return self._tenants.keys()

    def rules(self, tenant: str) -> list[Rule]:
        """The rules of ``tenant``, expired ones too."""
        held = self._tenants.get(tenant, _NOBODY).rules
        return [compiled.rule for compiled in held.values()]

    def add(self, rule: Rule) -> None:
        """Add a rule, or put it in the place of the tenant's rule of the same id."""
        held = self._tenants[rule.tenant]
        held.add(rule)
        self._forget(held)

    def remove(self, tenant: str, rule_id: str) -> bool:
        """Remove a rule; False when there was none."""
        held = self._tenants.get(tenant)
        if held is None or not held.remove(rule_id):
            return False
        if not held.rules:
            del self._tenants[tenant]
        self._forget(held)
        return True

    def replace(self, rules: Iterable[Rule], *, tenant: str | None = None) -> None:
        """Hold exactly ``rules``, in one step.

        Args:
            rules: All rules there are, or all of ``tenant``.
            tenant: Whose rules to replace; None: everybody's.
        """
        for gone in list(self._tenants) if tenant is None else [tenant]:
            self._forget(self._tenants.pop(gone, _NOBODY))
        for rule in rules:
            self._tenants[rule.tenant].add(rule)

    def decide(self, *, tenant: str, caller: str, target: str, method: str, now_ms: int) -> Verdict:
        """The caller side: may ``caller`` reach ``target``? Arguments as of ``evaluate``."""
        key = (True, caller, target, method)
        held = self._tenants.get(tenant, _NOBODY)
        if verdict := self._known(held, key, now_ms):
            return verdict
        return self._remember(held, key, held.decide(caller, target, method, now_ms))

    def decide_callee(
        self, *, tenant: str, provider: str, caller: str, method: str, now_ms: int
    ) -> Verdict:
        """The callee side: does ``provider`` accept ``caller``? As ``evaluate_callee``."""
        key = (False, provider, caller, method)
        held = self._tenants.get(tenant, _NOBODY)
        if verdict := self._known(held, key, now_ms):
            return verdict
        return self._remember(held, key, held.decide_callee(provider, caller, method, now_ms))

    def _known(self, held: _Tenant, key: _CacheKey, now_ms: int) -> Verdict | None:
        verdict = held.cache.get(key)
        if verdict and 0 < verdict.expires_ms <= now_ms:
            self._forget(held)
            return None
        if verdict:
            self.hits += 1
        return verdict

    def _remember(self, held: _Tenant, key: _CacheKey, verdict: Verdict) -> Verdict:
        if held is _NOBODY or len(key[2]) + len(key[3]) > CACHED_NAME_LENGTH:
            return verdict
        if self._cached >= CACHED_DECISIONS:
            self._forget(max(self._tenants.values(), key=lambda each: len(each.cache)))
        held.cache[key] = verdict
        self._cached += 1
        return verdict

    def _forget(self, held: _Tenant) -> None:
        self._cached -= len(held.cache)
        held.cache.clear()

"""The values of policy: rules in, verdicts out.

A rule whose target pattern is an ``outrelay://`` pattern speaks for a provider (the callee
side): its caller pattern names the provider, its target pattern who may call it. Every
other rule speaks for a caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from outrelay.lib.identity.uri import SCHEME
from outrelay.lib.policy.pattern import Pattern, Specificity

REGISTER = "REGISTER"
"""The method of an agent that offers a service; an empty method pattern does not match it."""


class Decision(IntEnum):
    """What a rule says of the calls it matches; numbers as on the wire."""

    ALLOW = 1
    DENY = 2


class P2PMode(IntEnum):
    """Whether the two agents of a stream may, or must, talk directly; numbers as on the wire."""

    ALLOWED = 0
    FORBIDDEN = 1
    REQUIRED = 2

    def combined(self, other: P2PMode) -> P2PMode:
        """The mode two sides agree on: FORBIDDEN over REQUIRED over ALLOWED."""
        if P2PMode.FORBIDDEN in (self, other):
            return P2PMode.FORBIDDEN
        return max(self, other)


class RelayMode(IntEnum):
    """What the relay does with the bytes; numbers as on the wire."""

    SPLICE = 0
    FORWARD = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One policy rule.

    Args:
        id: Unique within the tenant.
        tenant: Whose calls it is about.
        caller_pattern: Which callers (or, for a callee-side rule, which providers).
        target_pattern: Which services (or, for a callee-side rule, which callers).
        method_pattern: Which methods; empty: all but ``REGISTER``.
        decision: What it says.
        expires_ms: Milliseconds since the epoch from which it no longer decides; 0: never.
        created_ms: Milliseconds since the epoch.
        p2p_mode: Whether allowed calls may take a direct path.
        relay_mode: How allowed calls pass the relay.
    """

    id: str
    tenant: str
    caller_pattern: str
    target_pattern: str
    method_pattern: str = ""
    decision: Decision
    expires_ms: int = 0
    created_ms: int = 0
    p2p_mode: P2PMode = P2PMode.ALLOWED
    relay_mode: RelayMode = RelayMode.SPLICE

    @property
    def speaks_for_provider(self) -> bool:
        """True for a rule of the callee side."""
        return self.target_pattern.startswith(SCHEME)

    def expired(self, now_ms: int) -> bool:
        """True once it no longer decides."""
        return 0 < self.expires_ms <= now_ms


Rank = tuple[Specificity, Specificity, Specificity, bool, int, str]
"""Orders matching rules: the greatest decides."""


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule with its patterns compiled and its place among others computed once."""

    rule: Rule
    caller: Pattern
    target: Pattern
    method: Pattern
    rank: Rank

    @classmethod
    def of(cls, rule: Rule) -> CompiledRule:
        """The compiled form of ``rule``."""
        caller = Pattern.compile(rule.caller_pattern)
        target = Pattern.compile(rule.target_pattern)
        method = Pattern.compile(rule.method_pattern or "*")
        rank = (
            target.specificity,
            caller.specificity,
            method.specificity,
            rule.decision is Decision.DENY,
            rule.created_ms,
            rule.id,
        )
        return cls(rule, caller, target, method, rank)

    @property
    def covers_register(self) -> bool:
        """True for a rule that says something about registering a service."""
        return self.rule.method_pattern != "" and self.method.matches(REGISTER)

    def covers(self, method: str) -> bool:
        """True when it says something about calls with ``method``."""
        return self.covers_register if method == REGISTER else self.method.matches(method)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What policy says of one call.

    Args:
        allow: Whether it may happen.
        rule: The rule that decided; None where none matched.
        reason: One line for audit and for the caller.
        p2p_mode: Whether the stream may take a direct path.
        relay_mode: How the stream passes the relay.
        expires_ms: Milliseconds since the epoch from which this must be asked again although
            no rule was changed, because a rule it rests on expires; 0: never.
    """

    allow: bool
    rule: Rule | None
    reason: str
    p2p_mode: P2PMode = P2PMode.ALLOWED
    relay_mode: RelayMode = RelayMode.SPLICE
    expires_ms: int = 0

    def combined(self, callee: Verdict) -> Verdict:
        """The verdict of a call, from its caller side (this) and its callee side.

        A side that denies is the whole verdict. Where both allow, the caller side's rule is
        named, the stricter modes hold, and the earlier expiry counts.
        """
        if not self.allow:
            return self
        if not callee.allow:
            return callee
        return Verdict(
            allow=True,
            rule=self.rule,
            reason=self.reason,
            p2p_mode=self.p2p_mode.combined(callee.p2p_mode),
            relay_mode=max(self.relay_mode, callee.relay_mode),
            expires_ms=_earlier(self.expires_ms, callee.expires_ms),
        )


def _earlier(one: int, other: int) -> int:
    return min(one, other) if one and other else one or other

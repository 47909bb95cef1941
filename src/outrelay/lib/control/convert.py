"""Policy rules, and what became of them, between their wire form and the one that is evaluated."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

from outrelay.lib.control.v1 import policy_pb2 as pb
from outrelay.lib.errors import RemoteProtocolError
from outrelay.lib.policy import Decision, Explanation, P2PMode, RelayMode, Rule

_Enum = TypeVar("_Enum", bound=IntEnum)


def rule_from_proto(message: pb.PolicyRule) -> Rule:
    """The rule a message holds.

    Raises:
        RemoteProtocolError: A field has a value we cannot act on; its name comes first.
    """
    return Rule(
        id=message.id,
        tenant=message.tenant,
        caller_pattern=message.caller_pattern,
        target_pattern=message.target_pattern,
        method_pattern=message.method_pattern,
        decision=_member("decision", Decision, message.decision),
        expires_ms=message.expires_unix_ms,
        created_ms=message.created_at_unix_ms,
        p2p_mode=_member("p2p_mode", P2PMode, message.p2p_mode),
        relay_mode=_member("relay_mode", RelayMode, message.relay_mode),
    )


def rule_to_proto(rule: Rule) -> pb.PolicyRule:
    """The message that says ``rule``."""
    return pb.PolicyRule(
        id=rule.id,
        tenant=rule.tenant,
        caller_pattern=rule.caller_pattern,
        target_pattern=rule.target_pattern,
        method_pattern=rule.method_pattern,
        decision=pb.Decision.ValueType(rule.decision),
        expires_unix_ms=rule.expires_ms,
        created_at_unix_ms=rule.created_ms,
        p2p_mode=pb.P2PMode.ValueType(rule.p2p_mode),
        relay_mode=pb.RelayMode.ValueType(rule.relay_mode),
    )


def explanation_to_proto(explanation: Explanation) -> pb.ExplainResponse:
    """The message that says ``explanation``."""
    verdict = explanation.verdict
    return pb.ExplainResponse(
        decision=pb.DECISION_ALLOW if verdict.allow else pb.DECISION_DENY,
        matched_rule_id=verdict.rule.id if verdict.rule else "",
        reason=verdict.reason,
        considered=(
            pb.ConsideredRule(
                rule=rule_to_proto(each.rule),
                decides=each.decides,
                why=each.why,
                callee_side=each.rule.speaks_for_provider,
            )
            for each in explanation.considered
        ),
    )


def _member(field: str, kind: type[_Enum], number: int) -> _Enum:
    try:
        return kind(number)
    except ValueError:
        known = ", ".join(each.name.lower() for each in kind)
        raise RemoteProtocolError(f"{field}: must be one of {known}, not {number}") from None

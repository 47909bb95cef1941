"""Policy rules to their wire form and back; values nobody knows."""

from __future__ import annotations

import pytest
from hypothesis import given

from outrelay.lib.control.convert import rule_from_proto, rule_to_proto
from outrelay.lib.control.v1 import policy_pb2
from outrelay.lib.errors import RemoteProtocolError
from outrelay.lib.policy import Decision, P2PMode, RelayMode, Rule
from tests.lib.policy.rules import allow, random_rules


@given(random_rules)
def test_there_and_back(rules: list[Rule]) -> None:
    for rule in rules:
        assert rule_from_proto(rule_to_proto(rule)) == rule


def test_our_numbers_are_those_of_the_wire() -> None:
    for kind, wire, prefix in (
        (Decision, policy_pb2.Decision, "DECISION_"),
        (P2PMode, policy_pb2.P2PMode, "P2P_"),
        (RelayMode, policy_pb2.RelayMode, "RELAY_MODE_"),
    ):
        ours = {prefix + member.name: int(member) for member in kind}
        theirs = {name: number for name, number in wire.items() if "UNSPECIFIED" not in name}
        assert ours == theirs


@pytest.mark.parametrize("field", ["decision", "p2p_mode", "relay_mode"])
def test_a_value_nobody_knows_is_refused_by_name(field: str) -> None:
    message = rule_to_proto(allow())
    setattr(message, field, 77)
    with pytest.raises(RemoteProtocolError, match=f"^{field}: must be one of .*, not 77"):
        rule_from_proto(message)

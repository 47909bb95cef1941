"""Files of rules: what they may say, how faults are told, what differs."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrelay.cli.ruleset import difference, dump, line_of, parse
from outrelay.lib.control.v1 import policy_pb2 as pb
from outrelay.lib.errors import ConfigError

TEXT = st.text(min_size=1, max_size=20).filter(str.isprintable)
RULES = st.builds(
    pb.PolicyRule,
    caller_pattern=TEXT,
    target_pattern=TEXT,
    method_pattern=st.one_of(st.just(""), TEXT),
    decision=st.sampled_from([pb.DECISION_ALLOW, pb.DECISION_DENY]),
    expires_unix_ms=st.one_of(st.just(0), st.integers(1, 2**63 - 1)),
    p2p_mode=st.sampled_from(pb.P2PMode.values()),
    relay_mode=st.sampled_from(pb.RelayMode.values()),
)

FILE = """\
tenant: acme
rules:
- caller: outrelay://acme/agent/*
  target: db
  method: GET
  decision: allow
  expires: 2030-12-31T23:59:59Z
  p2p_mode: forbidden
  relay_mode: forward
- {caller: "*", target: yes, method: ~, decision: deny}
"""


def read(text: str) -> list[pb.PolicyRule]:
    return list(parse(text.encode(), source="f.yaml").rules)


def fault(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as raised:
        parse(text if isinstance(text, bytes) else text.encode(), source="f.yaml")
    return str(raised.value)


def rule(target: str = "db", rule_id: str = "", **more: object) -> pb.PolicyRule:
    return pb.PolicyRule(
        id=rule_id,
        caller_pattern="*",
        target_pattern=target,
        decision=pb.DECISION_ALLOW,
        **more,  # type: ignore[arg-type]
    )


def test_says_everything_a_rule_can_say() -> None:
    assert parse(FILE.encode(), source="f.yaml").tenant == "acme"
    assert read(FILE) == [
        pb.PolicyRule(
            caller_pattern="outrelay://acme/agent/*",
            target_pattern="db",
            method_pattern="GET",
            decision=pb.DECISION_ALLOW,
            expires_unix_ms=1_924_991_999_000,
            p2p_mode=pb.P2P_FORBIDDEN,
            relay_mode=pb.RELAY_MODE_FORWARD,
        ),
        pb.PolicyRule(caller_pattern="*", target_pattern="yes", decision=pb.DECISION_DENY),
    ]


@settings(max_examples=50)
@given(st.lists(RULES, max_size=3))
def test_what_is_written_reads_the_same(rules: list[pb.PolicyRule]) -> None:
    found = parse(dump("acme", rules).encode(), source="f.yaml")
    assert (found.tenant, list(found.rules)) == ("acme", rules)


@given(st.text(alphabet="[]{}:-*&!|>'\"#\n ,?ab\x00\u2028", max_size=40))
def test_whatever_is_in_a_file_is_rules_or_a_fault(text: str) -> None:
    with suppress(ConfigError):
        parse(text.encode(), source="f.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f.yaml: is empty; write `rules: []`"),
        ("- a", "f.yaml:1: must be a mapping of tenant, rules"),
        ("tenant: acme", "f.yaml:1: rules is missing"),
        ("rules: ~", "f.yaml:1: rules is missing"),
        ("rules: all", "f.yaml:1: rules: must be a list"),
        ("rules:\n- caller: *", "f.yaml:2: is no YAML: "),
        ("rules: []\n---\nrules: []", "f.yaml:2: is no YAML: "),
        (b"rules: \xff", "f.yaml: is no YAML: "),
        ("[" * 1000, "f.yaml: is nested too deeply"),
        ("rules: []\nrule: []", "f.yaml:2: unknown key 'rule'; known are tenant, rules"),
        ("rules: []\nrules: []", "f.yaml:2: rules is there twice"),
        ("rules:\n- db", "f.yaml:2: must be a mapping of caller, target"),
        ("rules:\n- caller: a\n  target: db", "f.yaml:2: decision is missing"),
        ("rules:\n- caller: a\n  decison: allow", "f.yaml:3: unknown key 'decison'; known"),
        ("rules:\n- ? [a]\n  : b", "f.yaml:2: unknown key '?'"),
    ],
)
def test_a_fault_names_its_line(text: str | bytes, expected: str) -> None:
    assert fault(text).startswith(expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("decision: maybe", "decision: 'maybe' is none of allow, deny"),
        ("p2p_mode: never", "p2p_mode: 'never' is none of allowed, forbidden, required"),
        ("relay_mode: x", "relay_mode: 'x' is none of splice, forward"),
        ("expires: 24h", "expires: '24h' is no time; write 2030-12-31T23:59:59Z"),
        ("expires: 2030-12-31", "expires: 2030-12-31 names no time zone"),
        ("expires: [1]", "expires: must be one text"),
        ('method: "a\\nb"', "method: must be printable text in one line"),
        (f"method: {'x' * 1025}", "method: has 1025 characters, at most 1024 are allowed"),
    ],
)
def test_a_bad_value_is_named_with_its_line(line: str, expected: str) -> None:
    base = {"caller": "a", "target": "b", "decision": "allow"}
    base.pop(line.partition(":")[0], None)
    text = "rules:\n- " + "\n  ".join(f"{key}: {value}" for key, value in base.items())
    assert fault(f"{text}\n  {line}\n").startswith(f"f.yaml:{2 + len(base)}: {expected}")


def test_an_empty_pattern_is_a_fault() -> None:
    assert fault('rules:\n- {caller: "", target: b, decision: deny}') == (
        "f.yaml:2: caller: must be given"
    )


class TestDifference:
    def test_rules_that_say_the_same_keep_their_ids(self) -> None:
        current = [rule("a", "1", created_at_unix_ms=5, tenant="acme"), rule("b", "2")]
        found = difference(current, [rule("c"), rule("a")])
        assert [each.id for each in found.result] == ["", "1"]
        assert [each.target_pattern for each in found.added] == ["c"]
        assert [each.id for each in found.removed] == ["2"]
        assert found.kept == 1

    def test_of_rules_that_say_the_same_as_many_stay_as_are_wanted(self) -> None:
        found = difference([rule("a", "1"), rule("a", "2"), rule("a", "3")], [rule("a")] * 2)
        assert [each.id for each in found.result] == ["1", "2"]
        assert [each.id for each in found.removed] == ["3"]
        assert found.added == []

    def test_everything_that_is_said_counts(self) -> None:
        current = [rule("a", "1")]
        for other in (
            rule("a", method_pattern="GET"),
            rule("a", expires_unix_ms=5),
            rule("a", p2p_mode=pb.P2P_REQUIRED),
            rule("a", relay_mode=pb.RELAY_MODE_FORWARD),
        ):
            found = difference(current, [other])
            assert (found.kept, len(found.added), len(found.removed)) == (0, 1, 1)


def test_a_rule_in_one_line() -> None:
    first, second = read(FILE)
    assert line_of(first) == (
        "allow outrelay://acme/agent/* -> db, method GET, expires 2030-12-31T23:59:59Z,"
        " p2p_mode forbidden, relay_mode forward"
    )
    assert line_of(second) == "deny * -> yes"
    assert "\x1b" not in line_of(rule("\x1b[2J"))

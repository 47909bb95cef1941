"""``PolicySet``: the same answers as plain evaluation, whatever was added and removed before."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.policy import (
    REGISTER,
    PolicySet,
    Rule,
    Verdict,
    evaluate,
    evaluate_callee,
    index,
)
from outrelay.lib.policy.pattern import Pattern
from tests.lib.policy.rules import (
    NOW,
    A,
    B,
    agents,
    allow,
    deny,
    methods,
    random_rules,
    services,
    tenants,
)


def decide(policies: PolicySet, *, target: str = "db", now_ms: int = NOW) -> Verdict:
    return policies.decide(tenant="acme", caller=A, target=target, method="", now_ms=now_ms)


@given(
    random_rules,
    random_rules,
    st.lists(st.sampled_from("abcdefgh")),
    st.integers(NOW - 2, NOW + 60),
    st.data(),
)
def test_decides_as_evaluate_does_over_the_rules_that_are_left(
    first: list[Rule], second: list[Rule], removed: list[str], now_ms: int, data: st.DataObject
) -> None:
    policies = PolicySet(first)
    for rule in second:
        policies.add(rule)
    model = {(rule.tenant, rule.id): rule for rule in (*first, *second)}
    for rule_id in removed:
        assert policies.remove("acme", rule_id) is (model.pop(("acme", rule_id), None) is not None)
    assert len(policies) == len(model)

    for _ in range(3):
        tenant, method = data.draw(tenants), data.draw(methods)
        caller, target, provider = data.draw(agents), data.draw(services), data.draw(agents)
        expected = evaluate(
            model.values(),
            tenant=tenant,
            caller=caller,
            target=target,
            method=method,
            now_ms=now_ms,
        )
        callee_expected = evaluate_callee(
            model.values(),
            tenant=tenant,
            provider=provider,
            caller=caller,
            method=method,
            now_ms=now_ms,
        )
        for _cached in range(2):
            assert expected == policies.decide(
                tenant=tenant, caller=caller, target=target, method=method, now_ms=now_ms
            )
            assert callee_expected == policies.decide_callee(
                tenant=tenant, provider=provider, caller=caller, method=method, now_ms=now_ms
            )


@given(random_rules)
def test_what_is_removed_leaves_nothing_behind(rules: list[Rule]) -> None:
    policies = PolicySet(rules)
    for rule in rules:
        assert policies.remove(rule.tenant, rule.id)
    assert len(policies) == 0
    assert not policies._tenants


def test_a_rule_of_the_same_id_takes_the_place_of_the_first() -> None:
    policies = PolicySet([allow(id="1")])
    policies.add(dataclasses.replace(allow(id="1"), target_pattern="web"))
    assert len(policies) == 1
    assert not decide(policies).allow


def test_rules_lists_one_tenants_rules() -> None:
    policies = PolicySet([allow(id="1"), allow(id="2", tenant="other")])
    assert [rule.id for rule in policies.rules("acme")] == ["1"]
    assert policies.rules("nobody") == []


def test_replace_changes_all_tenants_or_one() -> None:
    policies = PolicySet([allow(id="1"), allow(id="2", tenant="other")])
    policies.replace([deny(id="3")], tenant="acme")
    assert not decide(policies).allow
    assert len(policies) == 2
    policies.replace([allow(id="4")])
    assert decide(policies).allow
    assert policies.rules("other") == []


class TestCache:
    def test_a_change_of_any_kind_is_seen_by_the_next_decision(self) -> None:
        policies = PolicySet()
        assert not decide(policies).allow
        policies.add(allow(id="1"))
        assert decide(policies).allow
        policies.remove("acme", "1")
        assert not decide(policies).allow
        policies.replace([allow()])
        assert decide(policies).allow

    def test_an_expiry_is_seen_without_a_change(self) -> None:
        policies = PolicySet([allow(expires_ms=NOW + 1)])
        assert decide(policies, now_ms=NOW).allow
        assert not decide(policies, now_ms=NOW + 1).allow

    def test_repeats_come_from_it(self) -> None:
        policies = PolicySet([allow()])
        assert decide(policies) is decide(policies)

    def test_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(index, "CACHED_DECISIONS", 4)
        policies = PolicySet([allow()])
        for number in range(10):
            decide(policies, target=str(number))
        assert policies._cached == len(policies._tenants["acme"].cache) <= 4

    def test_names_of_any_length_a_peer_likes_are_not_kept(self) -> None:
        policies = PolicySet([allow()])
        assert decide(policies, target="x" * 10_000).allow
        assert not policies._cached

    def test_what_another_tenant_does_is_not_felt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(index, "CACHED_DECISIONS", 4)
        brief = allow(id="1", tenant="other", expires_ms=NOW + 1)
        policies = PolicySet([allow(), brief])
        ours = decide(policies)

        def ask_as_other(target: str, now_ms: int) -> None:
            policies.decide(tenant="other", caller=A, target=target, method="", now_ms=now_ms)

        for now_ms in (NOW, NOW + 1):  # what it was told expires
            ask_as_other("db", now_ms)
        for number in range(10):  # and there is more than is kept
            ask_as_other(str(number), NOW)
            assert policies._cached <= 4
        policies.add(deny(id="2", tenant="other"))
        policies.remove("other", "1")
        policies.replace([allow(id="3", tenant="other")], tenant="other")
        policies.replace([], tenant="other")
        assert decide(policies) is ours


def test_ten_thousand_rules_are_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: patterns tried for one decision among rules of the usual shapes."""
    tried = 0
    matches = Pattern.matches

    def counting(pattern: Pattern, text: str) -> bool:
        nonlocal tried
        tried += 1
        return matches(pattern, text)

    agents_of = "outrelay://acme/agent/"
    rules = [allow(f"{agents_of}{n:04}*", f"svc-{n}") for n in range(2500)]
    rules += [allow(f"{agents_of}{n:04}", "svc-*") for n in range(2500)]
    rules += [allow("*", f"svc-{n}-*") for n in range(2500)]
    rules += [allow(B, f"outrelay://acme/agent/{n:04}") for n in range(2500)]
    policies = PolicySet(rules)
    monkeypatch.setattr(Pattern, "matches", counting)
    for target in ("svc-77", "svc-77-x", "nothing"):
        policies.decide(
            tenant="acme", caller=f"{agents_of}0077", target=target, method=REGISTER, now_ms=NOW
        )
        policies.decide_callee(
            tenant="acme", provider=B, caller=f"{agents_of}0077", method="", now_ms=NOW
        )
    assert tried < 100


def test_tenants_are_those_that_have_rules() -> None:
    rule = allow()
    policies = PolicySet([rule])
    assert policies.tenants == {rule.tenant}
    assert PolicySet().tenants == set()

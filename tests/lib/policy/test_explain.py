"""Explanations: the same verdict as the evaluation, and a reason for every rule."""

from __future__ import annotations

import pytest
from hypothesis import given

from outrelay.lib.policy import Explanation, Rule, evaluate, evaluate_callee, explain
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


def explained(*rules: Rule, method: str = "GET", provider: str = "") -> Explanation:
    return explain(
        rules, tenant="acme", caller=A, target="db", method=method, now_ms=NOW, provider=provider
    )


def whys(explanation: Explanation) -> dict[str, str]:
    return {each.rule.id: each.why for each in explanation.considered}


@given(random_rules, tenants, agents, services, methods, agents)
def test_says_what_evaluation_says_of_the_tenants_rules_each_once(
    rules: list[Rule], tenant: str, caller: str, target: str, method: str, provider: str
) -> None:
    asked = {"tenant": tenant, "caller": caller, "method": method, "now_ms": NOW}
    here = evaluate(rules, target=target, **asked)  # type: ignore[arg-type]
    there = evaluate_callee(rules, provider=provider, **asked)  # type: ignore[arg-type]

    alone = explain(rules, target=target, **asked)  # type: ignore[arg-type]
    both = explain(rules, target=target, provider=provider, **asked)  # type: ignore[arg-type]

    assert alone.verdict == here
    assert both.verdict == here.combined(there)
    for explanation in (alone, both):
        told = [each.rule for each in explanation.considered]
        assert sorted(told, key=lambda rule: rule.id) == sorted(
            (rule for rule in rules if rule.tenant == tenant), key=lambda rule: rule.id
        )
        assert all(each.why for each in explanation.considered)
    deciding = [each.rule for each in both.considered if each.decides]
    assert deciding == [rule for rule in (here.rule, there.rule) if rule]
    assert deciding == [each.rule for each in both.considered[: len(deciding)]]


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (allow(A, "db", "GET"), "the only one that matches"),
        (allow(B, "db"), "the caller does not match"),
        (allow(A, "web"), "the target does not match"),
        (allow(A, "db", "PUT"), "the method does not match"),
        (allow(A, "db", expires_ms=NOW), "has expired"),
        (allow(B, A), "speaks for a provider, and none was asked about"),
    ],
)
def test_a_lone_rule(rule: Rule, why: str) -> None:
    (considered,) = explained(rule).considered
    assert (considered.why, considered.decides) == (why, "only one" in why)


def test_a_rule_for_all_methods_does_not_speak_of_registering() -> None:
    (considered,) = explained(allow(A, "db"), method="REGISTER").considered
    assert considered.why == "does not speak of REGISTER"


@pytest.mark.parametrize(
    ("winner", "loser", "why"),
    [
        (allow("*", "db"), deny("*", "d*"), "less specific target than that of W"),
        (allow(A, "db"), deny("*", "db"), "less specific caller than that of W"),
        (allow("*", "db", "GET"), deny("*", "db"), "less specific method than that of W"),
        (deny(), allow(created_ms=5), "as specific as W, and between equals deny wins"),
        (deny(created_ms=5), deny(), "as specific as W, which is newer"),
        (deny(), deny(), "as specific and as old as W, whose id is greater"),
    ],
)
def test_of_two_rules_the_loser_hears_why(winner: Rule, loser: Rule, why: str) -> None:
    fields = {name: getattr(winner, name) for name in winner.__slots__}
    winner = Rule(**{**fields, "id": "W"})
    fields = {name: getattr(loser, name) for name in loser.__slots__}
    loser = Rule(**{**fields, "id": "L"})

    explanation = explained(loser, winner)

    assert whys(explanation) == {"W": "the most specific that matches", "L": why}
    assert explanation.verdict.rule == winner


def test_those_that_match_stand_before_those_that_do_not_in_the_order_of_their_say() -> None:
    rules = [
        allow(B, "db", id="other"),
        allow("*", "*", id="third"),
        allow("*", "db", id="first"),
        allow("*", "d*", id="second"),
    ]
    order = [each.rule.id for each in explained(*rules).considered]
    assert order == ["first", "second", "third", "other"]


def test_the_providers_side_is_explained_with_its_own_words() -> None:
    explanation = explained(
        allow("*", "db", id="caller side"),
        allow(B, A, id="mine"),
        allow(A, A, id="other provider"),
        allow(B, B, id="other caller"),
        provider=B,
    )
    assert explanation.verdict.allow
    assert whys(explanation) == {
        "caller side": "the only one that matches",
        "mine": "the only one that matches",
        "other provider": "the provider does not match",
        "other caller": "the caller does not match",
    }
    assert [each.decides for each in explanation.considered] == [True, True, False, False]

"""Evaluation: which rule decides, on the caller's side, on the callee's, for REGISTER."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.policy import REGISTER, P2PMode, Rule, Verdict, evaluate, evaluate_callee
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


def decide(*rules: Rule, target: str = "db", method: str = "") -> Verdict:
    return evaluate(rules, tenant="acme", caller=A, target=target, method=method, now_ms=NOW)


def decide_callee(*rules: Rule, method: str = "") -> Verdict:
    """B is the provider, A calls."""
    return evaluate_callee(rules, tenant="acme", provider=B, caller=A, method=method, now_ms=NOW)


class TestCallerSide:
    def test_without_a_match_the_answer_is_no(self) -> None:
        for rules in ((), (allow(target="web"),), (allow(caller=B),)):
            verdict = decide(*rules)
            assert not verdict.allow
            assert verdict.rule is None
            assert verdict.reason == "no policy rule allows it"

    def test_the_rule_that_decides_gives_modes_reason_and_expiry(self) -> None:
        verdict = decide(allow(id="r7", p2p_mode=P2PMode.FORBIDDEN, expires_ms=NOW + 5))
        assert verdict.allow
        assert verdict.reason == "allowed by policy rule r7"
        assert verdict.p2p_mode is P2PMode.FORBIDDEN
        assert verdict.expires_ms == NOW + 5
        assert decide(deny(id="r8")).reason == "denied by policy rule r8"

    def test_rules_of_other_tenants_and_expired_rules_do_not_decide(self) -> None:
        assert not decide(allow(tenant="other"), allow(expires_ms=NOW)).allow
        assert decide(allow(), deny(target="db", expires_ms=NOW)).allow

    def test_an_exact_target_decides_before_a_longer_glob(self) -> None:
        assert decide(allow(target="db"), deny(caller=A, target="d*b")).allow

    def test_a_longer_target_decides_before_any_caller(self) -> None:
        assert decide(allow(target="d*"), deny(caller=A, target="*")).allow

    def test_then_the_caller_decides_then_the_method(self) -> None:
        assert decide(allow(caller=A), deny(caller="outrelay://acme/agent/*")).allow
        assert decide(allow(caller=A), deny(caller="*", method="GET"), method="GET").allow
        assert decide(allow(method="GET"), deny(method="G*"), method="GET").allow

    def test_at_equal_specificity_deny_wins_then_the_newest_then_the_id(self) -> None:
        assert not decide(allow(created_ms=9), deny(created_ms=1)).allow
        old, new = allow(id="b", created_ms=1), allow(id="a", created_ms=2)
        assert decide(old, new).rule is new
        assert decide(allow(id="a"), allow(id="b")).rule == allow(id="b")

    def test_an_empty_method_pattern_matches_every_method_but_register(self) -> None:
        assert decide(allow(method=""), method="GET").allow
        assert decide(allow(method=""), method="").allow
        assert not decide(allow(method="GET"), method="PUT").allow

    def test_rules_that_speak_for_a_provider_are_not_asked(self) -> None:
        assert not decide(allow(target="outrelay://*"), target="outrelay://x").allow


class TestRegister:
    def test_is_free_until_a_rule_is_about_it(self) -> None:
        assert decide(method=REGISTER).allow
        assert decide(deny(), allow(target="web"), method=REGISTER).allow
        assert not decide(allow(target="web", method=REGISTER), method=REGISTER).allow
        assert decide(allow(target="db", method=REGISTER), method=REGISTER).allow

    def test_a_star_is_about_it_too(self) -> None:
        assert not decide(deny(method="*"), method=REGISTER).allow

    def test_is_free_again_when_the_last_such_rule_expires(self) -> None:
        web = {"target": "web", "method": REGISTER}
        closed = decide(
            allow(id="1", expires_ms=NOW + 5, **web),
            allow(id="2", expires_ms=NOW + 9, **web),
            method=REGISTER,
        )
        assert not closed.allow
        assert closed.expires_ms == NOW + 9
        assert decide(allow(expires_ms=NOW, **web), method=REGISTER).allow

    def test_rules_for_providers_do_not_close_it(self) -> None:
        assert decide(allow(target="outrelay://*", method=REGISTER), method=REGISTER).allow


class TestCalleeSide:
    def test_has_no_objection_without_rules_that_name_the_provider(self) -> None:
        assert decide_callee().allow
        assert decide_callee(deny(), deny(caller=A, target="outrelay://*")).allow

    def test_is_a_closed_world_with_one(self) -> None:
        verdict = decide_callee(allow(caller=B, target="outrelay://elsewhere/*"))
        assert not verdict.allow
        assert verdict.reason == "the provider's policy does not allow it"

    def test_allows_and_denies_like_the_caller_side(self) -> None:
        agents_of_acme = allow(caller=B, target="outrelay://acme/agent/*")
        assert decide_callee(agents_of_acme).allow
        assert not decide_callee(agents_of_acme, deny(caller=B, target=A)).allow
        assert not decide_callee(allow(caller=B, target=A, method="GET"), method="PUT").allow

    def test_a_glob_names_many_providers(self) -> None:
        assert not decide_callee(deny(caller="outrelay://acme/*", target="outrelay://*")).allow

    def test_expired_rules_close_nothing(self) -> None:
        assert decide_callee(deny(caller=B, target="outrelay://*", expires_ms=NOW)).allow


@given(random_rules, st.randoms(), tenants, agents, agents, services, methods)
def test_the_order_of_arrival_never_matters(
    rules: list[Rule],
    random: Random,
    tenant: str,
    one: str,
    other: str,
    target: str,
    method: str,
) -> None:
    shuffled = list(rules)
    random.shuffle(shuffled)
    caller_side = [
        evaluate(order, tenant=tenant, caller=one, target=target, method=method, now_ms=NOW)
        for order in (rules, shuffled)
    ]
    callee_side = [
        evaluate_callee(order, tenant=tenant, provider=other, caller=one, method=method, now_ms=NOW)
        for order in (rules, shuffled)
    ]
    assert caller_side[0] == caller_side[1]
    assert callee_side[0] == callee_side[1]

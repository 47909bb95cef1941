"""What policy says, from memory."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from outrelay.lib.observe.metrics import PolicyMetrics
from outrelay.lib.policy import Decision, PolicySet
from outrelay.relay.call import Call
from outrelay.relay.policy.judge import Judge
from tests.relay.rooms import ALLOW_ALL, rule
from tests.support.peers import AGENT_A, AGENT_B, AGENT_C

CALL = Call(tenant="acme", caller=AGENT_A.uri, service="db", stream_id=1)


def judge(*rules: object, allow_all: bool = False, now_ms: int = 0) -> Judge:
    made = Judge(PolicyMetrics(CollectorRegistry()), allow_all=allow_all, now_ms=lambda: now_ms)
    if rules:
        made.replace(PolicySet(rules))  # type: ignore[arg-type]
    return made


def test_without_rules_the_world_is_closed_but_registering_is_free() -> None:
    empty = judge()

    assert not empty.judge_caller(CALL).allow
    assert not empty.judge_callee(CALL, AGENT_B.uri).allow
    assert empty.judge_registration("acme", AGENT_B.uri, "db").allow


def test_with_allow_all_no_rule_is_asked() -> None:
    careless = judge(rule("*", decision=Decision.DENY), allow_all=True)

    assert careless.judge_caller(CALL).allow
    assert careless.judge_callee(CALL, AGENT_B.uri).allow
    assert careless.judge_registration("acme", AGENT_B.uri, "db").allow


def test_both_sides_are_asked() -> None:
    one = judge(ALLOW_ALL, rule(AGENT_C.uri, rule_id="2", caller=AGENT_B.uri))

    assert one.judge_caller(CALL).allow
    assert not one.judge_callee(CALL, AGENT_B.uri).allow
    assert one.judge_callee(CALL, AGENT_C.uri).allow


def test_what_the_rules_remember_is_counted() -> None:
    registry = CollectorRegistry()
    one = Judge(PolicyMetrics(registry), now_ms=lambda: 0)
    one.replace(PolicySet([ALLOW_ALL]))

    one.judge_caller(CALL)
    one.judge_callee(CALL, AGENT_B.uri)
    one.judge_caller(CALL)

    series = "outrelay_policy_cache_lookups_total"
    found = {each: registry.get_sample_value(series, {"result": each}) for each in ("hit", "miss")}
    assert found == {"hit": 1, "miss": 2}


def test_registering_is_a_question_of_its_own() -> None:
    one = judge(ALLOW_ALL, rule("db", rule_id="2", method="REGISTER", caller=AGENT_B.uri))

    assert one.judge_registration("acme", AGENT_B.uri, "db").allow
    assert not one.judge_registration("acme", AGENT_C.uri, "db").allow
    assert one.judge_registration("globex", AGENT_C.uri, "db").allow


def test_changes_count_at_once() -> None:
    one = judge(rule("other"))
    assert not one.judge_caller(CALL).allow

    one.add(rule("db", rule_id="2"))
    assert one.judge_caller(CALL).allow
    assert one.rules == 2
    one.remove("acme", "2")
    assert not one.judge_caller(CALL).allow
    one.remove("acme", "2")  # once more is no harm


@pytest.mark.parametrize(("now_ms", "allow"), [(999, True), (1000, False)])
def test_a_rule_ends_in_its_time(now_ms: int, *, allow: bool) -> None:
    passing = PolicySet()
    made = judge(ALLOW_ALL, now_ms=now_ms)
    passing.add(
        type(ALLOW_ALL)(
            id="1",
            tenant="acme",
            caller_pattern="*",
            target_pattern="*",
            decision=Decision.ALLOW,
            expires_ms=1000,
        )
    )
    made.replace(passing)

    assert made.judge_caller(CALL).allow is allow


def test_what_is_known_of_one_tenant_says_nothing_of_another() -> None:
    made = judge()
    made.replace_tenant("globex", [rule("*", tenant="globex")])
    assert "no controller" in made.judge_caller(CALL).reason
    assert made.judge_registration("acme", AGENT_B.uri, "db").allow

    made.replace_tenant("acme", [ALLOW_ALL])
    assert made.judge_caller(CALL).allow
    made.keep_only({"globex"})
    assert "no controller" in made.judge_caller(CALL).reason
    assert made.rules == 1
    made.keep_only({"globex", "acme"})
    assert "no controller" in made.judge_caller(CALL).reason


def test_live_streams_are_judged_by_new_rules_unless_these_are_none_at_all() -> None:
    made = judge()
    for rules, again in (((), True), ((ALLOW_ALL,), True), ((), False), ((), True)):
        made.revised.clear()
        made.replace_tenant("acme", rules)
        assert made.revised.is_set() is again

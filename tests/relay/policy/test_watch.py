"""The judge's rules are the controller's: complete ones, then every change."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from outrelay.lib.control.convert import rule_to_proto
from outrelay.lib.control.v1 import policy_pb2 as policy
from outrelay.lib.errors import ControlError
from outrelay.lib.observe.metrics import PolicyMetrics
from outrelay.lib.policy import Rule
from outrelay.relay.call import Call
from outrelay.relay.controller import Kind
from outrelay.relay.policy.judge import Judge
from outrelay.relay.policy.watch import PolicyWatch
from tests.relay.rooms import rule
from tests.support.peers import AGENT_A

END = policy.PolicyEvent(kind=policy.PolicyEvent.POLICY_KIND_SNAPSHOT_END)


def added(one: Rule) -> policy.PolicyEvent:
    return policy.PolicyEvent(kind=policy.PolicyEvent.POLICY_KIND_ADDED, rule=rule_to_proto(one))


def removed(one: Rule) -> policy.PolicyEvent:
    return policy.PolicyEvent(
        kind=policy.PolicyEvent.POLICY_KIND_REMOVED, rule=rule_to_proto(one), removed_id=one.id
    )


def allowed(judge: Judge, service: str = "db", tenant: str = "acme") -> bool:
    call = Call(tenant=tenant, caller=AGENT_A.uri, service=service)
    return judge.judge_caller(call).allow


def watched(tenant: str = "") -> tuple[Judge, PolicyWatch]:
    """A judge without rules, and a watch whose call has just begun."""
    judge = Judge(PolicyMetrics(CollectorRegistry()))
    watch = PolicyWatch(judge, tenant, Kind(), on_plain=lambda _: None)
    watch.begin()
    return judge, watch


def test_nothing_counts_before_everything_is_there() -> None:
    judge, watch = watched()
    watch.take(added(rule("db")))
    assert not allowed(judge)

    watch.take(END)
    assert allowed(judge)
    assert judge.rules == 1


def test_changes_count_at_once_also_those_of_other_tenants() -> None:
    judge, watch = watched()
    watch.take(END)
    ours, theirs = rule("db"), rule("db", tenant="globex")
    watch.take(added(ours))
    watch.take(added(theirs))
    assert allowed(judge)
    assert allowed(judge, tenant="globex")

    watch.take(removed(theirs))
    assert allowed(judge)
    assert not allowed(judge, tenant="globex")


def test_a_watch_of_one_tenant_needs_only_the_id_of_a_removed_rule() -> None:
    judge, watch = watched("acme")
    watch.take(added(rule("db")))
    watch.take(END)
    watch.take(policy.PolicyEvent(kind=policy.PolicyEvent.POLICY_KIND_REMOVED, removed_id="1"))

    assert not allowed(judge)


def test_a_watch_of_one_tenant_takes_no_rules_of_others() -> None:
    judge, watch = watched("acme")
    watch.take(END)
    watch.take(added(rule("db", tenant="globex")))
    assert judge.rules == 0
    watch.take(added(rule("db")))
    assert judge.rules == 1


def test_a_new_snapshot_takes_the_place_of_the_old_in_one_step() -> None:
    judge, watch = watched()
    watch.take(added(rule("db")))
    watch.take(END)
    watch.lost()
    assert allowed(judge)  # while the controller is away

    watch.begin()
    watch.take(added(rule("other", rule_id="2")))
    watch.take(added(rule("third", rule_id="3")))
    watch.take(removed(rule("third", rule_id="3")))
    assert allowed(judge)
    assert not allowed(judge, "other")
    watch.take(END)
    assert not allowed(judge)
    assert allowed(judge, "other")
    assert not allowed(judge, "third")


def test_a_snapshot_that_breaks_off_changes_nothing() -> None:
    judge, watch = watched()
    watch.take(added(rule("db")))
    watch.take(END)
    watch.begin()
    watch.lost()
    watch.take(END)

    assert allowed(judge)


def test_a_controller_that_has_lost_its_rules_is_spoken_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    judge, watch = watched()
    watch.take(added(rule("db")))
    watch.take(END)
    watch.begin()
    watch.take(END)

    assert not allowed(judge)
    assert "every new stream is denied" in caplog.text


def test_a_rule_that_is_not_understood_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    judge, watch = watched()
    strange = added(rule("db"))
    strange.rule.decision = 77  # type: ignore[assignment]
    watch.take(strange)
    watch.take(policy.PolicyEvent(kind=policy.PolicyEvent.POLICY_KIND_REVOKED))
    watch.take(END)

    assert not allowed(judge)
    assert "left out" in caplog.text


def test_an_answer_that_gives_nothing_of_all_tenants_is_none() -> None:
    shown = Kind()
    began: list[str] = []
    judge = Judge(PolicyMetrics(CollectorRegistry()))
    everybody = PolicyWatch(judge, "", shown, on_plain=began.append)
    with pytest.raises(ControlError, match="all tenants"):
        everybody.begun(extended=False)
    assert not shown.plain.is_set()
    everybody.refused()
    assert shown.plain.is_set()

    one = PolicyWatch(judge, "acme", shown, on_plain=began.append)
    one.begun(extended=False)
    assert began == ["acme"]
    one.begun(extended=True)
    one.refused()
    assert shown.extended.is_set()
    assert not shown.plain.is_set()
    assert began == ["acme"]


def in_batch(event: policy.PolicyEvent, revision: int = 7) -> policy.PolicyEvent:
    event.revision = revision
    return event


def test_a_batch_counts_at_its_end_and_as_one() -> None:
    judge, watch = watched()
    old, new = rule("db", rule_id="old"), rule("d*", rule_id="new")
    watch.take(added(old))
    watch.take(END)
    judge.revised.clear()
    watch.take(in_batch(removed(old)))
    watch.take(in_batch(added(new)))
    assert allowed(judge)
    assert not judge.revised.is_set()

    watch.take(in_batch(policy.PolicyEvent(kind=END.kind)))
    assert allowed(judge)
    assert judge.rules == 1
    assert judge.revised.is_set()


def test_a_batch_that_broke_off_counts_for_nothing() -> None:
    judge, watch = watched()
    watch.take(END)
    watch.take(in_batch(added(rule("db"))))
    watch.lost()
    watch.begin()
    watch.take(END)
    assert not allowed(judge)

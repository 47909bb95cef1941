"""Bounds for agents and tenants: what is held, and how often."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from outrelay.lib.errors import StreamRejected
from outrelay.lib.observe.metrics import LimitMetrics
from outrelay.relay.limits import Bounds
from outrelay.relay.quotas import Pace, Quota

A, B = "outrelay://acme/agent/a", "outrelay://acme/agent/b"


class Metrics:
    """What was counted."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.limits = LimitMetrics(self.registry)

    def in_use(self) -> float:
        return self.registry.get_sample_value("outrelay_in_use", {"what": "things"}) or 0.0

    def reached(self, limit: str) -> float:
        name = "outrelay_limits_reached_total"
        return self.registry.get_sample_value(name, {"limit": limit}) or 0.0


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def quota(metrics: Metrics, agent: int, tenant: int) -> Quota:
    return Quota("things", "things at hand", Bounds(agent=agent, tenant=tenant), metrics.limits)


def pace(metrics: Metrics, agent: int, tenant: int) -> Pace:
    bounds = Bounds(agent=agent, tenant=tenant)
    return Pace("goes", "goes more than {} times a second", bounds, metrics.limits)


def refusal(check: Quota, agent: str, tenant: str = "acme") -> str:
    with pytest.raises(StreamRejected) as caught:
        check.check(agent, tenant)
    assert caught.value.code == 429
    return str(caught.value.reason)


def test_an_agent_and_a_tenant_have_their_bounds(metrics: Metrics) -> None:
    held = quota(metrics, agent=2, tenant=3)
    for agent in (A, A, B):
        held.check(agent, "acme")
        held.take(agent, "acme")
    assert (len(held), metrics.in_use()) == (3, 3)
    assert refusal(held, A) == "the agent has 2 things at hand, the most allowed"
    assert refusal(held, B) == "the tenant has 3 things at hand, the most allowed"
    assert (metrics.reached("things_per_agent"), metrics.reached("things_per_tenant")) == (1, 1)
    held.check("outrelay://globex/agent/a", "globex")

    held.give(A, "acme")
    held.check(A, "acme")
    held.check(B, "acme")


def test_who_holds_nothing_is_forgotten(metrics: Metrics) -> None:
    held = quota(metrics, agent=2, tenant=3)
    held.check(A, "acme")
    held.take(A, "acme")
    held.give(A, "acme")
    assert (len(held), metrics.in_use()) == (0, 0)
    assert (held._agents, held._tenants) == ({}, {})


def test_an_agent_named_like_a_tenant_is_not_it(metrics: Metrics) -> None:
    held = quota(metrics, agent=1, tenant=1)
    held.take("acme", "globex")
    held.check("outrelay://acme/agent/b", "acme")


def test_a_place_is_held_until_it_is_left(metrics: Metrics) -> None:
    held = quota(metrics, agent=1, tenant=1)
    with held.place(A, "acme"):
        refusal(held, A)
        with pytest.raises(StreamRejected), held.place(A, "acme"):
            raise AssertionError("there is no room")
    with held.place(A, "acme") as place:
        place.leave()
        held.check(A, "acme")
        place.leave()
        assert len(held) == 0
    assert (len(held), metrics.in_use()) == (0, 0)


def test_who_goes_too_often_must_wait(metrics: Metrics) -> None:
    going = pace(metrics, agent=5, tenant=100)
    for _ in range(10):
        going.spend(A, "acme", 7.0)
    with pytest.raises(StreamRejected, match="the agent goes more than 5 times a second"):
        going.spend(A, "acme", 7.1)
    going.spend(B, "acme", 7.1)
    going.spend(A, "acme", 7.2)
    assert metrics.reached("goes_per_agent") == 1


def test_agents_of_a_tenant_share_its_pace(metrics: Metrics) -> None:
    going = pace(metrics, agent=5, tenant=5)
    for agent in (A, B) * 5:
        going.spend(agent, "acme", 7.0)
    for agent in (A, B):
        with pytest.raises(StreamRejected, match="the tenant goes more than 5 times a second"):
            going.spend(agent, "acme", 7.1)
    going.spend("outrelay://globex/agent/a", "globex", 7.1)
    assert metrics.reached("goes_per_tenant") == 2


def test_what_is_refused_costs_neither_the_agent_nor_its_tenant(metrics: Metrics) -> None:
    going = pace(metrics, agent=1, tenant=2)
    for _ in range(2):
        going.spend(A, "acme", 7.0)
    for _ in range(100):
        with pytest.raises(StreamRejected, match="the agent"):
            going.spend(A, "acme", 7.0)
    for _ in range(2):
        going.spend(B, "acme", 7.0)
    with pytest.raises(StreamRejected, match="the tenant"):
        going.spend("outrelay://acme/agent/c", "acme", 7.0)
    going.spend("outrelay://acme/agent/c", "acme", 7.5)

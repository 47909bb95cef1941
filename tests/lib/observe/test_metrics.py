"""Metric families: names people's dashboards rely on, and labels that stay few."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from outrelay.lib.observe.metrics import (
    AgentMetrics,
    ControllerMetrics,
    RelayMetrics,
    new_registry,
)
from outrelay.lib.observe.metrics.declare import Catalogue


def names(registry: CollectorRegistry) -> set[str]:
    return {family.name for family in registry.collect()}


def test_a_relay_counts_what_operators_ask_about() -> None:
    registry = CollectorRegistry()
    metrics = RelayMetrics.on(registry)

    metrics.carrier.connections.labels("agent", "quic").inc()
    metrics.carrier.handshakes_refused.labels("certificate").inc()
    metrics.streams.open.inc()
    metrics.streams.opened.inc()
    metrics.streams.ended.labels("403").inc()
    metrics.streams.bytes_up.inc(10)
    metrics.streams.bytes_down.inc(20)
    metrics.policy.decisions.labels("deny").inc()
    metrics.policy.rules.set(3)
    metrics.audit.queued.set(7)
    metrics.audit.sent.inc(5)

    value = registry.get_sample_value
    assert value("outrelay_connections", {"role": "agent", "carrier": "quic"}) == 1
    assert value("outrelay_handshakes_refused_total", {"reason": "certificate"}) == 1
    assert value("outrelay_streams_open") == 1
    assert value("outrelay_streams_opened_total") == 1
    assert value("outrelay_streams_ended_total", {"result": "403"}) == 1
    assert value("outrelay_stream_bytes_total", {"direction": "up", "path": "relayed"}) == 10
    assert value("outrelay_stream_bytes_total", {"direction": "down", "path": "relayed"}) == 20
    assert value("outrelay_policy_decisions_total", {"decision": "deny"}) == 1
    assert value("outrelay_policy_rules") == 3
    assert value("outrelay_audit_queue_events") == 7
    assert value("outrelay_audit_events_sent_total") == 5


def test_a_controller_counts_calls_and_watchers() -> None:
    registry = CollectorRegistry()
    metrics = ControllerMetrics.on(registry)

    metrics.rpc.calls.labels("Policy/AddPolicy", "OK").inc()
    metrics.rpc.watchers.labels("Policy/Watch").inc()

    value = registry.get_sample_value
    labels = {"method": "Policy/AddPolicy", "code": "OK"}
    assert value("outrelay_rpc_calls_total", labels) == 1
    assert value("outrelay_watchers", {"method": "Policy/Watch"}) == 1


def test_an_agent_shares_the_families_of_connections_and_streams_with_the_relay() -> None:
    agent, relay = CollectorRegistry(), CollectorRegistry()
    AgentMetrics.on(agent)
    RelayMetrics.on(relay)

    ours = {name for name in names(agent) if not name.startswith("outrelay_uplink_")}
    assert "outrelay_connections" in ours
    assert ours < names(relay)


@pytest.mark.parametrize("declare", [RelayMetrics.on, AgentMetrics.on, ControllerMetrics.on])
def test_every_family_is_ours_and_says_what_it_is(
    declare: Callable[[CollectorRegistry], object],
) -> None:
    registry = CollectorRegistry()
    declare(registry)

    for family in registry.collect():
        assert family.name.startswith("outrelay_")
        assert family.documentation.endswith(".")


@pytest.mark.parametrize("declare", [RelayMetrics.on, AgentMetrics.on])
def test_what_labels_begin_with_is_what_the_reference_says_of_them(
    declare: Callable[[CollectorRegistry], object],
) -> None:
    registry = Catalogue()
    declare(registry)

    said = {each.name: each.labels for each in registry.declared}
    begun = [
        sample for family in registry.collect() for sample in family.samples if sample.name in said
    ]
    assert any(sample.labels == {"result": "closed"} for sample in begun)
    for sample in begun:
        for label, value in sample.labels.items():
            assert f"`{value}`" in said[sample.name][label]


def test_two_services_in_one_process_do_not_meet() -> None:
    RelayMetrics.on(new_registry())
    RelayMetrics.on(new_registry())


def test_a_new_registry_tells_memory() -> None:
    registry = new_registry()

    assert "process_resident_memory_bytes" in generate_latest(registry).decode()

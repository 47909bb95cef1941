"""The trail: nothing that fits is lost, equal rejects are one event, a full one says so."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from outrelay.lib.control.v1 import policy_pb2 as policy
from outrelay.lib.observe.metrics import AuditMetrics
from outrelay.relay.audit import trail as trail_module
from outrelay.relay.audit.trail import HOLD, Trail
from outrelay.relay.call import Call

CALL = Call(tenant="acme", caller="outrelay://acme/agent/a", service="db", stream_id=0xAB)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(
    *, capacity: int = 100, clock: Clock | None = None, registry: CollectorRegistry | None = None
) -> Trail:
    return Trail(
        AuditMetrics(registry or CollectorRegistry()),
        relay_id="r1",
        capacity=capacity,
        now_ms=lambda: 5,
        monotonic=clock or Clock(),
    )


def test_what_happens_is_queued_in_its_order() -> None:
    trail = made()
    trail.opened(CALL, "provider", "allowed by policy rule 1")
    trail.closed(CALL, "provider", "finished", up=3, down=4, seconds=0.0125)
    opened, closed = trail.batch(10)

    assert (opened.event, opened.reason) == ("open", "allowed by policy rule 1")
    assert (closed.event, closed.bytes_up, closed.bytes_down, closed.duration_ms) == (
        "close",
        3,
        4,
        12,
    )
    for event in (opened, closed):
        assert (event.ts_unix_ms, event.tenant, event.caller, event.target) == (
            5,
            "acme",
            CALL.caller,
            "db",
        )
        assert (event.relay_id, event.provider, event.stream_id, event.decision) == (
            "r1",
            "provider",
            "00000000000000ab",
            policy.DECISION_ALLOW,
        )
    assert opened.event_id != closed.event_id


def test_events_stay_until_they_are_stored() -> None:
    registry = CollectorRegistry()
    trail = made(registry=registry)
    for _ in range(3):
        trail.opened(CALL, "provider", "")
    first = trail.batch(2)
    assert trail.batch(2) == first
    assert registry.get_sample_value("outrelay_audit_queue_events") == 3

    trail.stored(2)
    assert len(trail.batch(2)) == 1
    assert registry.get_sample_value("outrelay_audit_queue_events") == 1
    assert registry.get_sample_value("outrelay_audit_events_sent_total") == 2


def test_equal_rejects_of_a_second_are_one_event_with_a_count() -> None:
    clock = Clock()
    trail = made(clock=clock)
    for _ in range(17):
        trail.rejected(CALL, "403 no")
    trail.rejected(CALL, "404 none")
    assert trail.batch(10) == []
    assert trail.waiting == 2

    clock.now += HOLD
    seventeen, one = trail.batch(10)
    assert (seventeen.reason, one.reason) == ("403 no (17 times)", "404 none")
    assert (seventeen.event, seventeen.decision) == ("reject", policy.DECISION_DENY)
    trail.rejected(CALL, "403 no")
    clock.now += HOLD
    assert [event.reason for event in trail.batch(10)][2:] == ["403 no"]


def test_different_rejects_are_held_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail_module, "MOST_HELD", 2)
    trail = made()
    for number in range(4):
        trail.rejected(CALL, str(number))

    assert [event.reason for event in trail.batch(10)] == ["2", "3"]


def test_a_full_trail_says_so_and_takes_what_running_streams_say(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trail = made(capacity=2)
    fullness = []
    for _ in range(2):
        fullness.append(trail.full)
        trail.opened(CALL, "provider", "")
    assert [*fullness, trail.full] == [False, False, True]
    assert "audit queue is full" in caplog.text

    trail.closed(CALL, "provider", "finished", up=0, down=0, seconds=1)
    trail.settling.set()
    trail.rejected(CALL, "429 full")  # cannot be recorded any more
    assert [event.event for event in trail.batch(10)] == ["open", "open", "close"]
    trail.stored(2)
    assert not trail.full
    assert "audit queue has room again" in caplog.text
    assert "'rejects_not_recorded': 1" in caplog.text


async def test_waiting_ends_with_the_next_event() -> None:
    trail = made()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(trail.wait(), name="wait")
        await asyncio.sleep(0)
        assert not waiting.done()
        trail.opened(CALL, "provider", "")


async def test_waiting_ends_when_a_held_event_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail_module, "HOLD", 0.01)
    trail = Trail(AuditMetrics(CollectorRegistry()), relay_id="r1")
    async with asyncio.TaskGroup() as group:
        group.create_task(trail.wait(), name="wait")
        await asyncio.sleep(0)
        trail.rejected(CALL, "403 no")

    assert len(trail.batch(10)) == 1


async def test_settling_holds_nothing_back_and_waits_until_all_is_stored() -> None:
    trail = made()
    trail.rejected(CALL, "403 no")
    async with asyncio.TaskGroup() as group:
        settling = group.create_task(trail.settle(), name="settle")
        await trail.wait()
        trail.rejected(CALL, "404 none")
        assert [event.reason for event in trail.batch(10)] == ["403 no", "404 none"]
        assert not settling.done()
        trail.stored(2)
    assert trail.waiting == 0


def test_a_registration_is_a_decision_without_a_stream() -> None:
    trail = made()
    trail.registered(Call(tenant="acme", caller="a", service="db", method="REGISTER"), "free")
    trail.settling.set()
    [event] = trail.batch(10)

    assert (event.event, event.method, event.decision, event.stream_id) == (
        "",
        "REGISTER",
        policy.DECISION_ALLOW,
        "",
    )

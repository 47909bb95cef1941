"""The trail: nothing is lost, equal rejects are one event, and a full share is its tenant's."""

from __future__ import annotations

import asyncio
import logging

import pytest
from prometheus_client import CollectorRegistry

from outrelay.lib.control.v1 import audit_pb2 as audit
from outrelay.lib.control.v1 import policy_pb2 as policy
from outrelay.lib.observe.metrics import AuditMetrics
from outrelay.relay.audit import folding as folding_module
from outrelay.relay.audit.folding import HOLD
from outrelay.relay.audit.record import Record
from outrelay.relay.audit.shares import Shares
from outrelay.relay.audit.trail import MEMORY, Trail
from outrelay.relay.call import Call
from outrelay.relay.options import Overflow

CALL = Call(tenant="acme", caller="outrelay://acme/agent/a", service="db", stream_id=0xAB)
OTHER = Call(tenant="other", caller="outrelay://other/agent/a", service="db", stream_id=0xAC)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(
    *,
    overflow: Overflow = Overflow.DENY,
    memory: int = MEMORY,
    spool: Shares | None = None,
    clock: Clock | None = None,
    registry: CollectorRegistry | None = None,
) -> Trail:
    return Trail(
        AuditMetrics(registry or CollectorRegistry()),
        relay_id="r1",
        overflow=overflow,
        memory=memory,
        spool=spool,
        now_ms=lambda: 5,
        monotonic=clock or Clock(),
    )


def events(trail: Trail, most: int = 1000) -> list[audit.AuditEvent]:
    return [record.decoded() for record in trail.batch(most)]


def fill(trail: Trail, call: Call = CALL) -> int:
    """Open streams until there is no room for more; how many."""
    opened = 0
    while trail.has_room(call.tenant):
        trail.opened(call, "provider", "allowed")
        opened += 1
    return opened


def end(trail: Trail, call: Call = CALL) -> None:
    trail.closed(call, "provider", "finished", up=0, down=0, seconds=1)


def test_what_happens_is_queued_in_its_order() -> None:
    trail = made()
    trail.opened(CALL, "provider", "allowed by policy rule 1")
    trail.closed(CALL, "provider", "finished", up=3, down=4, seconds=0.0125)
    opened, closed = events(trail)

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


async def test_events_stay_until_they_are_stored() -> None:
    registry = CollectorRegistry()
    trail = made(registry=registry)
    for _ in range(3):
        trail.opened(CALL, "provider", "")
    first = trail.batch(2)
    assert trail.batch(2) == first
    assert registry.get_sample_value("outrelay_audit_queue_events") == 3

    await trail.stored(first)
    assert len(trail.batch(2)) == 1
    assert registry.get_sample_value("outrelay_audit_queue_events") == 1
    assert registry.get_sample_value("outrelay_audit_events_sent_total") == 2


def test_what_has_left_already_is_not_forgotten_again() -> None:
    trail = made()
    trail.opened(CALL, "provider", "same")
    records = trail.batch()
    trail.remove(records)
    trail.opened(CALL, "provider", "same")
    trail.remove(records)
    assert trail.waiting == 1


def test_every_event_has_an_id_of_its_own_also_beyond_one_process() -> None:
    trail = made()
    for _ in range(100):
        trail.opened(CALL, "provider", "")
    another = made()
    another.opened(CALL, "provider", "")
    assert len({event.event_id for event in (*events(trail), *events(another))}) == 101


def test_nobody_can_count_the_events_of_others_by_ids_of_ones_own() -> None:
    trail = made()
    for _ in range(20):
        trail.opened(CALL, "provider", "")
    ids = [event.event_id for event in events(trail)]
    assert ids != sorted(ids)
    assert len({each[:4] for each in ids}) > 1


def test_equal_rejects_of_a_second_are_one_event_with_a_count() -> None:
    clock = Clock()
    trail = made(clock=clock)
    for _ in range(17):
        trail.rejected(CALL, "403 no")
    trail.rejected(CALL, "404 none")
    assert not events(trail)
    assert trail.waiting == 2

    clock.now += HOLD
    seventeen, one = events(trail)
    assert (seventeen.reason, one.reason) == ("403 no (17 times)", "404 none")
    assert (seventeen.event, seventeen.decision) == ("reject", policy.DECISION_DENY)


class TestFull:
    async def test_a_tenant_without_room_opens_nothing_and_another_does(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        trail = made(memory=100_000)
        alone = fill(trail)
        assert alone > 50
        assert "streams are refused" in caplog.text
        assert not trail.has_room("acme")
        assert trail.has_room("other")
        assert fill(trail, OTHER) > alone / 4

    async def test_what_running_streams_have_to_say_fits(self) -> None:
        trail = made(memory=5000)
        opened = fill(trail)
        for _ in range(opened):
            end(trail)
        trail.revoked(CALL, "provider", "rule removed")
        assert len(events(trail)) == 2 * opened + 1

    async def test_there_is_room_again_when_events_are_stored(self) -> None:
        trail = made(memory=5000)
        fill(trail)
        await trail.stored(trail.batch(1))
        assert trail.has_room("acme")

    async def test_a_full_spool_counts_as_well(self) -> None:
        spool = Shares(1000)
        trail = made(spool=spool)
        assert trail.has_room("acme")
        spool.take("acme", 600)
        assert not trail.has_room("acme")
        assert trail.has_room("other")

    async def test_a_flood_of_different_rejects_leaves_room_for_streams(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folding_module, "MOST_OF_CALLER", 1_000_000)
        clock = Clock()
        trail = made(memory=100_000, clock=clock)
        flood = 5000
        for number in range(flood):
            trail.rejected(CALL, f"404 no agent offers {number}")
            clock.now += HOLD / 100
        recorded = len(events(trail))
        assert 0 < recorded < flood / 10
        assert fill(trail) > 10

        trail.remove(trail.batch(flood))
        clock.now += HOLD
        *held, lump = events(trail)
        assert lump.event == "reject"
        assert lump.reason.endswith(f"({flood - recorded - len(held)} times)")

    async def test_what_cannot_be_opened_for_want_of_room_is_counted_all_the_same(self) -> None:
        clock = Clock()
        trail = made(memory=5000, clock=clock)
        opened = fill(trail)
        for _ in range(50):
            trail.rejected(CALL, "429 no room")
            clock.now += HOLD
            assert len(events(trail)) == opened
        trail.remove(trail.batch())
        clock.now += HOLD
        assert [event.reason for event in events(trail)] == ["too many to tell apart (50 times)"]


class TestDrop:
    async def test_streams_go_on_and_what_is_lost_is_counted(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        registry = CollectorRegistry()
        trail = made(overflow=Overflow.DROP, memory=5000, registry=registry)
        for _ in range(100):
            assert trail.has_room("acme")
            trail.opened(CALL, "provider", "")
            end(trail)
        kept = len(events(trail))
        assert 0 < kept < 50
        dropped = registry.get_sample_value("outrelay_audit_events_dropped_total")
        assert dropped == 200 - kept
        lines = [line for line in caplog.records if "audit events dropped" in line.getMessage()]
        assert len(lines) == 1
        assert lines[0].levelno == logging.ERROR

    async def test_another_tenant_loses_nothing(self) -> None:
        trail = made(overflow=Overflow.DROP, memory=5000)
        for _ in range(100):
            trail.opened(CALL, "provider", "")
        trail.opened(OTHER, "provider", "")
        end(trail, OTHER)
        assert [event.event for event in events(trail) if event.tenant == "other"] == [
            "open",
            "close",
        ]


async def test_next_waits_for_an_event() -> None:
    trail = made()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(trail.next(), name="next")
        await asyncio.sleep(0)
        assert not waiting.done()
        trail.opened(CALL, "provider", "")
    assert len(waiting.result()) == 1


async def test_next_waits_until_a_held_event_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding_module, "HOLD", 0.01)
    trail = Trail(AuditMetrics(CollectorRegistry()), relay_id="r1")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(trail.next(), name="next")
        await asyncio.sleep(0)
        trail.rejected(CALL, "403 no")
    assert [record.decoded().reason for record in waiting.result()] == ["403 no"]


async def test_settling_holds_nothing_back_and_waits_until_all_has_left() -> None:
    trail = made()
    trail.rejected(CALL, "403 no")
    async with asyncio.TaskGroup() as group:
        settling = group.create_task(trail.settle(), name="settle")
        first = await trail.next()
        trail.rejected(CALL, "404 none")
        assert [event.reason for event in events(trail)] == ["403 no", "404 none"]
        await trail.stored(first)
        assert not settling.done()
        await trail.stored(trail.batch())
    assert trail.waiting == 0
    await trail.wait_empty()


def test_a_registration_is_a_decision_without_a_stream() -> None:
    trail = made()
    trail.registered(Call(tenant="acme", caller="a", service="db", method="REGISTER"), "free")
    trail.hold_nothing_back()
    [event] = events(trail)

    assert (event.event, event.method, event.decision, event.stream_id) == (
        "",
        "REGISTER",
        policy.DECISION_ALLOW,
        "",
    )


def test_records_are_what_was_recorded() -> None:
    trail = made()
    trail.opened(CALL, "provider", "")
    (record,) = trail.batch()
    assert record == Record.of(record.decoded())
    assert record.tenant == "acme"

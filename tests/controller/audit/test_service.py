"""The Audit rpcs against a live controller."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from outrelay.controller.audit import service as audit_service
from outrelay.controller.store import Audit
from outrelay.controller.store import audit as audit_store
from outrelay.lib.control.v1 import audit_pb2 as pb
from outrelay.lib.control.v1 import policy_pb2
from tests.controller.live import AGENT_A, AGENT_B, TIMEOUT, LiveController, Stubs, refused

ALLOW, DENY = policy_pb2.DECISION_ALLOW, policy_pb2.DECISION_DENY


@pytest.fixture
async def relay(controller: LiveController) -> AsyncIterator[Stubs]:
    async with controller.as_relay() as stubs:
        yield stubs


@pytest.fixture
async def operator(controller: LiveController) -> AsyncIterator[Stubs]:
    async with controller.as_operator() as stubs:
        yield stubs


def event(ts: int = 0, **more: object) -> pb.AuditEvent:
    fields: dict[str, object] = {"tenant": "acme", "ts_unix_ms": ts, "event": "open"}
    return pb.AuditEvent(**{**fields, **more})  # type: ignore[arg-type]


async def record(stubs: Stubs, *events: pb.AuditEvent) -> int:
    batches = iter([pb.RecordBatchRequest(events=events)])
    return (await stubs.audit.RecordBatch(batches, timeout=TIMEOUT)).stored


async def query(stubs: Stubs, **fields: object) -> list[pb.AuditEvent]:
    request = pb.QueryAuditRequest(tenant="acme", **fields)  # type: ignore[arg-type]
    return [found async for found in stubs.audit.Query(request, timeout=TIMEOUT)]


async def take(
    follow: grpc.aio.UnaryStreamCall[pb.QueryAuditRequest, pb.AuditEvent],
) -> pb.AuditEvent:
    found = await follow.read()
    assert isinstance(found, pb.AuditEvent)
    return found


def times(events: list[pb.AuditEvent]) -> list[int]:
    return [found.ts_unix_ms for found in events]


class TestRecord:
    async def test_keeps_everything_that_an_event_says(self, relay: Stubs, operator: Stubs) -> None:
        told = event(
            1_700_000_000_000,
            caller=AGENT_A,
            target="db",
            method="GET",
            decision=ALLOW,
            reason="allowed by policy rule 1",
            stream_id="00000000000000ff",
            event="close",
            relay_id="r1",
            provider=AGENT_B,
            bytes_up=2**40,
            bytes_down=7,
            duration_ms=1234,
            event_id="e1",
        )
        await relay.audit.Record(pb.RecordAuditRequest(event=told))
        assert await query(operator) == [told]

    async def test_gives_what_is_missing_an_id_and_a_time(
        self, relay: Stubs, operator: Stubs
    ) -> None:
        await record(relay, event(), event())
        found = await query(operator)
        assert len({each.event_id for each in found}) == 2
        assert all(each.ts_unix_ms > 1_700_000_000_000 for each in found)

    async def test_stores_an_event_at_most_once(self, relay: Stubs, operator: Stubs) -> None:
        batch = [event(n, event_id=str(n)) for n in range(1, 4)]
        assert await record(relay, *batch, batch[0]) == 3
        assert await record(relay, *batch, event(4, event_id="4")) == 1
        assert times(await query(operator)) == [4, 3, 2, 1]

    async def test_takes_any_number_of_batches_in_one_call(
        self, relay: Stubs, operator: Stubs
    ) -> None:
        batches = (pb.RecordBatchRequest(events=[event(n + 1)]) for n in range(5))
        assert (await relay.audit.RecordBatch(batches)).stored == 5
        assert len(await query(operator)) == 5
        assert await record(relay) == 0

    async def test_a_relay_never_gets_stuck_on_a_long_text_or_a_large_count(
        self, relay: Stubs, operator: Stubs
    ) -> None:
        await record(relay, event(1, reason="x" * 100_000, bytes_up=2**64 - 1, target="a\0b"))
        (found,) = await query(operator)
        assert len(found.reason) == 1024
        assert found.bytes_up == 2**63 - 1
        assert found.target == "a\ufffdb"

    @pytest.mark.parametrize(
        ("bad", "field"),
        [(event(tenant=""), "event.tenant:"), (event(decision=9), "event.decision: 9")],
    )
    async def test_a_bad_field_is_named(self, relay: Stubs, bad: pb.AuditEvent, field: str) -> None:
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, field):
            await record(relay, bad)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, field):
            await relay.audit.Record(pb.RecordAuditRequest(event=bad))


class TestQuery:
    @pytest.fixture(autouse=True)
    async def stored(self, relay: Stubs) -> None:
        await record(
            relay,
            event(10, caller=AGENT_A, target="db", decision=ALLOW, stream_id="a" * 16),
            event(30, caller=AGENT_A, target="web", decision=DENY, stream_id="b" * 16),
            event(20, caller=AGENT_B, target="db", decision=DENY, stream_id="c" * 16),
            event(40, tenant="other", target="db"),
        )

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({}, [30, 20, 10]),
            ({"caller": AGENT_A}, [30, 10]),
            ({"target": "db"}, [20, 10]),
            ({"decision": DENY}, [30, 20]),
            ({"stream_id": "c" * 16}, [20]),
            ({"since_unix_ms": 20}, [30, 20]),
            ({"until_unix_ms": 20}, [20, 10]),
            ({"since_unix_ms": 11, "until_unix_ms": 29}, [20]),
            ({"limit": 2}, [30, 20]),
            ({"target": "db", "decision": DENY, "limit": 5}, [20]),
            ({"caller": "nobody"}, []),
        ],
    )
    async def test_filters_newest_first(
        self, operator: Stubs, fields: dict[str, object], expected: list[int]
    ) -> None:
        assert times(await query(operator, **fields)) == expected

    async def test_a_negative_limit_is_refused(self, operator: Stubs) -> None:
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "limit:"):
            await query(operator, limit=-1)

    async def test_reads_pages_without_gap_or_repetition(
        self, relay: Stubs, operator: Stubs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(audit_store, "PAGE", 3)
        await record(relay, *(event(20, event_id=f"same-{n}") for n in range(8)))
        found = await query(operator)
        assert times(found) == [30, *[20] * 9, 10]
        assert len({each.event_id for each in found}) == 11
        for limit in (3, 4, 6, 11):
            assert await query(operator, limit=limit) == found[:limit]

    async def test_a_follower_gets_what_comes_too_and_only_what_it_asked_for(
        self, relay: Stubs, operator: Stubs
    ) -> None:
        request = pb.QueryAuditRequest(tenant="acme", target="db", limit=1, follow=True)
        follow = operator.audit.Query(request, timeout=TIMEOUT)
        await follow.initial_metadata()
        await record(relay, event(50, target="web"), event(5, target="db", event_id="new"))
        assert [(await take(follow)).ts_unix_ms for _ in range(2)] == [20, 5]
        assert await record(relay, event(5, target="db", event_id="new"), event(6, target="db"))
        assert (await take(follow)).ts_unix_ms == 6
        follow.cancel()

    async def test_a_follower_gets_the_past_in_its_order(
        self, operator: Stubs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(audit_service, "FOLLOWED_PAST", 2)
        for limit in (0, 2, 5):
            request = pb.QueryAuditRequest(tenant="acme", limit=limit, follow=True)
            follow = operator.audit.Query(request, timeout=TIMEOUT)
            assert [(await take(follow)).ts_unix_ms for _ in range(2)] == [20, 30]
            follow.cancel()

    async def test_a_follower_misses_nothing_that_comes_while_the_past_is_read(
        self, operator: Stubs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        last_seq = Audit.last_seq

        async def busy(audit: Audit) -> int:
            await audit.record([event(60, event_id="before")])
            seen = await last_seq(audit)
            await audit.record([event(70, event_id="after")])
            return seen

        monkeypatch.setattr(Audit, "last_seq", busy)
        request = pb.QueryAuditRequest(tenant="acme", since_unix_ms=60, follow=True)
        follow = operator.audit.Query(request, timeout=TIMEOUT)
        assert [(await take(follow)).event_id for _ in range(2)] == ["before", "after"]
        follow.cancel()

    async def test_a_follower_goes_on_after_the_event_it_saw_last(
        self, relay: Stubs, operator: Stubs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(audit_store, "PAGE", 2)
        await record(relay, *(event(n, event_id=f"e{n}") for n in (5, 3, 9, 1)))
        await record(relay, event(2, tenant="other", event_id="theirs"))
        request = pb.QueryAuditRequest(tenant="acme", follow=True, limit=1, after_event_id="e5")
        follow = operator.audit.Query(request, timeout=TIMEOUT)
        assert [(await take(follow)).event_id for _ in range(3)] == ["e3", "e9", "e1"]
        await record(relay, event(4, event_id="new"))
        assert (await take(follow)).event_id == "new"
        follow.cancel()

    async def test_who_goes_on_follows_and_names_an_event_of_its_tenant(
        self, relay: Stubs, operator: Stubs
    ) -> None:
        await record(relay, event(2, tenant="other", event_id="theirs"))
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "after_event_id:"):
            await query(operator, after_event_id="theirs")
        for unknown in ("theirs", "nobody's"):
            async with refused(grpc.StatusCode.NOT_FOUND, "not in the trail"):
                await query(operator, follow=True, after_event_id=unknown)

    async def test_a_follower_that_reads_late_gets_everything(
        self, relay: Stubs, operator: Stubs
    ) -> None:
        request = pb.QueryAuditRequest(tenant="acme", limit=1, follow=True)
        follow = operator.audit.Query(request, timeout=TIMEOUT)
        await follow.initial_metadata()
        for start in range(0, 5000, 500):
            batch = (event(100, event_id=f"n{n}") for n in range(start, start + 500))
            assert await record(relay, *batch) == 500
        await take(follow)
        found = [(await take(follow)).event_id for _ in range(5000)]
        assert found == [f"n{n}" for n in range(5000)]
        follow.cancel()

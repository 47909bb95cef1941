"""Queries of the audit trail find their events by an index and sort nothing."""

from __future__ import annotations

import pytest

from outrelay.controller.store import IN_MEMORY, AuditQuery, open_store
from outrelay.controller.store.session import Parameters, Row, Session
from outrelay.lib.control.v1.policy_pb2 import DECISION_DENY


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (AuditQuery(tenant="acme"), "audit_by_time"),
        (AuditQuery(tenant="acme", since_ms=5, until_ms=9), "audit_by_time"),
        (AuditQuery(tenant="acme", caller="a"), "audit_by_caller"),
        (AuditQuery(tenant="acme", target="db"), "audit_by_target"),
        (AuditQuery(tenant="acme", decision=DECISION_DENY), "audit_of_denials"),
        (AuditQuery(tenant="acme", decision=DECISION_DENY, since_ms=5), "audit_of_denials"),
        (AuditQuery(tenant="acme", stream_id="0" * 16), "audit_by_stream"),
    ],
    ids=str,
)
async def test_a_query_has_its_index(
    query: AuditQuery, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = _plans(monkeypatch)
    async with open_store(IN_MEMORY) as store:
        assert [event async for event in store.audit.query(query, limit=100)] == []
    assert f"USING INDEX {index} " in plans[0]
    assert not any("TEMP B-TREE" in plan for plan in plans)


async def test_who_goes_on_reads_the_end_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = _plans(monkeypatch)
    query = AuditQuery(tenant="acme", caller="a", decision=DECISION_DENY)
    async with open_store(IN_MEMORY) as store:
        assert [each async for each in store.audit.stored_between(query, after=5, last=9)] == []
    assert plans == ["SEARCH audit_events USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"]


def _plans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How statements are going to be run, which they are not."""
    plans: list[str] = []
    rows = Session.rows

    async def explained(
        session: Session, statement: str, parameters: Parameters | None = None
    ) -> list[Row]:
        plan = await rows(session, f"EXPLAIN QUERY PLAN {statement}", parameters)
        plans.extend(row["detail"] for row in plan)
        return []

    monkeypatch.setattr(Session, "rows", explained)
    return plans

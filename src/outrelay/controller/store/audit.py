"""Audit events.

An event has a time (of the relay that wrote it) and a *seq*, its place in the order of
storing. Queries go by time, newest first; who follows goes by seq.

Source: control-plane.md, Audit.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass

from outrelay.controller.feed import Mark
from outrelay.controller.store.database import Database
from outrelay.controller.store.session import Row, Session, Value
from outrelay.lib.control.v1 import audit_pb2, policy_pb2

PAGE = 500
_MAX_INTEGER = 2**63 - 1
_COLUMNS = (
    "event_id",
    "ts_unix_ms",
    "tenant",
    "caller",
    "target",
    "method",
    "decision",
    "reason",
    "stream_id",
    "event",
    "relay_id",
    "provider",
    "bytes_up",
    "bytes_down",
    "duration_ms",
)
_EXTRACTED = ", ".join(f"json_extract(value, '$.{name}')" for name in _COLUMNS)
_INSERT = f"""
INSERT INTO audit_events ({", ".join(_COLUMNS)})
SELECT {_EXTRACTED} FROM json_each(:events) WHERE true
ON CONFLICT (event_id) DO NOTHING
RETURNING seq
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """Which events to look for; an empty or zero field is no condition.

    Args:
        tenant: Whose events; always given.
        caller: Exact URI.
        target: Exact name.
        decision: Number of the decision.
        stream_id: 16 hex digits.
        since_ms: The earliest time, itself included.
        until_ms: The latest time, itself included.
    """

    tenant: str
    caller: str = ""
    target: str = ""
    decision: int = 0
    stream_id: str = ""
    since_ms: int = 0
    until_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event and its seq."""

    seq: int
    event: audit_pb2.AuditEvent


class Audit:
    """The events' table.

    ``mark`` is the seq of what was stored last.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.mark = Mark()

    async def record(self, events: Iterable[audit_pb2.AuditEvent]) -> int:
        """Store events, each of which has an event_id; how many were not there before."""
        batch = json.dumps([{name: _value(event, name) for name in _COLUMNS} for event in events])

        async def work(session: Session) -> int:
            stored = await session.rows(_INSERT, {"events": batch})
            if stored:
                session.publish(self.mark, max(row["seq"] for row in stored))
            return len(stored)

        return await self._database.write(work)

    async def last_seq(self) -> int:
        """The seq of the event stored last; 0 when there never was one."""

        async def work(session: Session) -> int:
            row = await session.row("SELECT seq FROM audit_events ORDER BY seq DESC LIMIT 1")
            return int(row["seq"]) if row else 0

        return await self._database.read(work)

    async def query(
        self, query: AuditQuery, *, limit: int = 0, last_seq: int = _MAX_INTEGER
    ) -> AsyncGenerator[StoredEvent, None]:
        """The events a query looks for, newest first, read in pages.

        Args:
            query: What to look for.
            limit: At most so many; 0: all.
            last_seq: None that were stored later than this one.
        """
        left = limit or _MAX_INTEGER
        end: tuple[int, int] = (_MAX_INTEGER, _MAX_INTEGER)
        while left:
            size = min(PAGE, left)
            page = await self._page(query, last_seq, end, size)
            for stored in page:
                yield stored
            if len(page) < size:
                return
            left -= size
            end = page[-1].event.ts_unix_ms, page[-1].seq

    async def stored_between(
        self, query: AuditQuery, *, after: int, last: int
    ) -> AsyncGenerator[StoredEvent, None]:
        """The events a query looks for, in the order of storing, read in pages.

        Args:
            query: What to look for.
            after: None up to this seq.
            last: None beyond this one.
        """
        conditions, key = _conditions(query)
        where = " AND ".join(["seq > :after", "seq <= :last", *conditions])
        # Without an index, by seq alone: the end of the table is mostly what is looked for.
        select = f"SELECT * FROM audit_events NOT INDEXED WHERE {where} ORDER BY seq LIMIT :size"
        while True:
            page = await self._read(select, key | {"after": after, "last": last, "size": PAGE})
            for stored in page:
                yield stored
            if len(page) < PAGE:
                return
            after = page[-1].seq

    async def seq_of(self, tenant: str, event_id: str) -> int | None:
        """The seq of a tenant's event; None: there is no such event."""

        async def work(session: Session) -> int | None:
            found = "SELECT seq FROM audit_events WHERE event_id = :id AND tenant = :tenant"
            row = await session.row(found, {"id": event_id, "tenant": tenant})
            return int(row["seq"]) if row else None

        return await self._database.read(work)

    async def remove_before(self, before_ms: int, *, limit: int) -> int:
        """Remove up to ``limit`` of the events from before this time; how many there were."""
        old = "SELECT seq FROM audit_events WHERE ts_unix_ms < :before LIMIT :limit"
        return await self._database.write(
            lambda session: session.change(
                f"DELETE FROM audit_events WHERE seq IN ({old})",
                {"before": before_ms, "limit": limit},
            )
        )

    async def _page(
        self, query: AuditQuery, last_seq: int, end: tuple[int, int], size: int
    ) -> list[StoredEvent]:
        """Up to ``size`` events, newest first, from before the time and seq of ``end``."""
        conditions, key = _conditions(query)
        where = " AND ".join(["seq <= :last_seq", "(ts_unix_ms, seq) < (:ts, :seq)", *conditions])
        select = f"SELECT * FROM audit_events WHERE {where} ORDER BY ts_unix_ms DESC, seq DESC"
        key |= {"last_seq": last_seq, "ts": end[0], "seq": end[1], "size": size}
        return await self._read(f"{select} LIMIT :size", key)

    async def _read(self, select: str, key: dict[str, Value]) -> list[StoredEvent]:
        rows = await self._database.read(lambda session: session.rows(select, key))
        return [_stored(row) for row in rows]


def _conditions(query: AuditQuery) -> tuple[list[str], dict[str, Value]]:
    key: dict[str, Value] = {
        "tenant": query.tenant,
        "caller": query.caller,
        "target": query.target,
        "stream_id": query.stream_id,
        "since": query.since_ms,
        "until": query.until_ms,
    }
    exact = ("tenant", "caller", "target", "stream_id")
    conditions = [f"{name} = :{name}" for name in exact if key[name]]
    if query.decision:
        # As a literal: SQLite takes the index of denials for nothing less.
        conditions.append(f"decision = {int(query.decision)}")
    if query.since_ms:
        conditions.append("ts_unix_ms >= :since")
    if query.until_ms:
        conditions.append("ts_unix_ms <= :until")
    return conditions, key


def _value(event: audit_pb2.AuditEvent, name: str) -> Value:
    value: Value = getattr(event, name)
    return value if isinstance(value, str) else min(value, _MAX_INTEGER)


def _stored(row: Row) -> StoredEvent:
    event = audit_pb2.AuditEvent(
        ts_unix_ms=row["ts_unix_ms"],
        tenant=row["tenant"],
        caller=row["caller"],
        target=row["target"],
        method=row["method"],
        decision=policy_pb2.Decision.ValueType(row["decision"]),
        reason=row["reason"],
        stream_id=row["stream_id"],
        event=row["event"],
        relay_id=row["relay_id"],
        provider=row["provider"],
        bytes_up=row["bytes_up"],
        bytes_down=row["bytes_down"],
        duration_ms=row["duration_ms"],
        event_id=row["event_id"],
    )
    return StoredEvent(seq=row["seq"], event=event)

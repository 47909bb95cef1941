"""Policy rules.

Source: control-plane.md, Policy.
"""

from __future__ import annotations

import dataclasses

from outrelay.controller.feed import Feed
from outrelay.controller.store.database import Database, Row, Session, Value
from outrelay.controller.store.records import PolicyChange, PolicyChangeKind
from outrelay.lib.policy import Decision, P2PMode, RelayMode, Rule

_INSERT = """
INSERT INTO policies (tenant, id, caller_pattern, target_pattern, method_pattern, decision,
                      expires_ms, created_ms, p2p_mode, relay_mode, revision)
VALUES (:tenant, :id, :caller_pattern, :target_pattern, :method_pattern, :decision,
        :expires_ms, :created_ms, :p2p_mode, :relay_mode, :revision)
ON CONFLICT DO NOTHING
"""


class Policies:
    """The rules' table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.feed: Feed[PolicyChange] = Feed()

    async def add(self, rule: Rule) -> bool:
        """Add a rule; False when the tenant has one of that id."""
        row: dict[str, Value] = dataclasses.asdict(rule)

        async def work(session: Session) -> bool:
            revision = await session.next_revision()
            if not await session.change(_INSERT, {**row, "revision": revision}):
                return False
            self._publish(session, revision, PolicyChangeKind.ADDED, rule)
            return True

        return await self._database.write(work)

    async def remove(self, tenant: str, rule_id: str) -> bool:
        """Remove a rule; False when there is none of that id."""
        where = "tenant = :tenant AND id = :id"
        removed = await self._delete(where, {"tenant": tenant, "id": rule_id})
        return bool(removed)

    async def remove_expired(self, before_ms: int) -> int:
        """Remove the rules that expired before this time; how many there were."""
        where = "expires_ms > 0 AND expires_ms < :before"
        return await self._delete(where, {"before": before_ms})

    async def snapshot(self, tenant: str | None) -> tuple[list[Rule], int]:
        """The rules of a tenant (None: of all), oldest first, and their revision."""
        where = "" if tenant is None else "WHERE tenant = :tenant"
        select = f"SELECT * FROM policies {where} ORDER BY created_ms, id"

        async def work(session: Session) -> tuple[list[Rule], int]:
            revision = await session.revision()
            rows = await session.rows(select, {"tenant": tenant or ""})
            return [_rule(row) for row in rows], revision

        return await self._database.read(work)

    async def _delete(self, where: str, key: dict[str, Value]) -> int:
        async def work(session: Session) -> int:
            rows = await session.rows(f"DELETE FROM policies WHERE {where} RETURNING *", key)
            if rows:
                revision = await session.next_revision()
                for row in rows:
                    self._publish(session, revision, PolicyChangeKind.REMOVED, _rule(row))
            return len(rows)

        return await self._database.write(work)

    def _publish(self, session: Session, revision: int, kind: PolicyChangeKind, rule: Rule) -> None:
        session.publish(self.feed, PolicyChange(revision=revision, kind=kind, rule=rule))


def _rule(row: Row) -> Rule:
    return Rule(
        id=row["id"],
        tenant=row["tenant"],
        caller_pattern=row["caller_pattern"],
        target_pattern=row["target_pattern"],
        method_pattern=row["method_pattern"],
        decision=Decision(row["decision"]),
        expires_ms=row["expires_ms"],
        created_ms=row["created_ms"],
        p2p_mode=P2PMode(row["p2p_mode"]),
        relay_mode=RelayMode(row["relay_mode"]),
    )

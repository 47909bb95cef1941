"""Policy rules.

What one transaction changes in a tenant's rules is published as one PolicyBatch, so that
watchers can take it as a whole. The tenant's rule set then has another revision: one of its own,
by which nobody can count what happens to others.

Source: control-plane.md, Policy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from outrelay.controller.feed import Feed
from outrelay.controller.store.database import Database
from outrelay.controller.store.records import (
    PolicyBatch,
    PolicyChange,
    PolicyChangeKind,
    PolicySnapshot,
)
from outrelay.controller.store.session import Row, Session, Value
from outrelay.lib.errors import ControlError
from outrelay.lib.policy import Decision, P2PMode, RelayMode, Rule

_INSERT = """
INSERT INTO policies (tenant, id, caller_pattern, target_pattern, method_pattern, decision,
                      expires_ms, created_ms, p2p_mode, relay_mode, revision)
VALUES (:tenant, :id, :caller_pattern, :target_pattern, :method_pattern, :decision,
        :expires_ms, :created_ms, :p2p_mode, :relay_mode, :revision)
ON CONFLICT DO NOTHING
"""

_SELECT = "SELECT * FROM policies"

_NEXT_REVISION = """
INSERT INTO policy_revisions (tenant, number) VALUES (:tenant, 1)
ON CONFLICT (tenant) DO UPDATE SET number = number + 1 RETURNING number
"""


class Policies:
    """The rules' table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.feed: Feed[PolicyBatch] = Feed()

    async def add(self, rule: Rule) -> bool:
        """Add a rule; False when the tenant has one of that id."""

        async def work(session: Session) -> bool:
            revision = await session.next_revision()
            if not await session.change(_INSERT, _row(rule, revision)):
                return False
            await self._note(session, revision, rule.tenant, [PolicyChange.added(rule)])
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

    async def replace(self, tenant: str, rules: Sequence[Rule], *, expected_revision: int) -> int:
        """Let a tenant have exactly ``rules``, in one step; the revision it then has.

        A rule that was there under its id keeps its time of creation, and where nothing else
        of it changed either, nothing happens to it.

        Args:
            tenant: Whose rules they are.
            rules: All of them, each with an id of its own.
            expected_revision: Which revision the caller means to replace.

        Raises:
            ControlError: FAILED_PRECONDITION: the tenant has another revision.
        """

        async def work(session: Session) -> int:
            current = await _tenant_revision(session, tenant)
            if current != expected_revision:
                raise _stale(tenant, current, expected_revision)
            rows = await session.rows(f"{_SELECT} WHERE tenant = :tenant", {"tenant": tenant})
            old = {row["id"]: _rule(row) for row in rows}
            changes = list(_difference(old, rules))
            if not changes:
                return current
            revision = await session.next_revision()
            await _apply(session, changes, revision)
            return await self._note(session, revision, tenant, changes)

        return await self._database.write(work)

    async def snapshot(self, tenant: str | None) -> PolicySnapshot:
        """The rules of a tenant (None: of all)."""
        where = "" if tenant is None else "WHERE tenant = :tenant"

        async def work(session: Session) -> PolicySnapshot:
            key = {"tenant": tenant or ""}
            rows = await session.rows(f"{_SELECT} {where} ORDER BY created_ms, id", key)
            return PolicySnapshot(
                rules=tuple(_rule(row) for row in rows),
                revision=await session.revision(),
                tenant_revision=await _tenant_revision(session, tenant or ""),
            )

        return await self._database.read(work)

    async def _delete(self, where: str, key: dict[str, Value]) -> int:
        async def work(session: Session) -> int:
            rows = await session.rows(f"DELETE FROM policies WHERE {where} RETURNING *", key)
            rules = sorted((_rule(row) for row in rows), key=_tenant_of)
            for tenant, gone in groupby(rules, key=_tenant_of):
                revision = await session.next_revision()
                await self._note(session, revision, tenant, map(PolicyChange.removed, gone))
            return len(rows)

        return await self._database.write(work)

    async def _note(
        self, session: Session, revision: int, tenant: str, changes: Iterable[PolicyChange]
    ) -> int:
        """The rules of ``tenant`` have changed; the revision they have now."""
        row = await session.row(_NEXT_REVISION, {"tenant": tenant})
        assert row is not None
        batch = PolicyBatch(
            revision=revision,
            tenant=tenant,
            tenant_revision=int(row["number"]),
            changes=tuple(changes),
        )
        session.publish(self.feed, batch)
        return batch.tenant_revision


def _difference(old: Mapping[str, Rule], rules: Sequence[Rule]) -> Iterator[PolicyChange]:
    """What leads from one rule set to the other: what comes, comes before what goes."""
    for rule in rules:
        before = old.get(rule.id)
        if before is None:
            yield PolicyChange.added(rule)
            continue
        after = dataclasses.replace(rule, created_ms=before.created_ms)
        if after != before:
            yield PolicyChange.removed(before)
            yield PolicyChange.added(after)
    kept = {rule.id for rule in rules}
    yield from (PolicyChange.removed(rule) for rule in old.values() if rule.id not in kept)


async def _apply(session: Session, changes: Sequence[PolicyChange], revision: int) -> None:
    removed = [change.rule for change in changes if change.kind is PolicyChangeKind.REMOVED]
    added = [change.rule for change in changes if change.kind is PolicyChangeKind.ADDED]
    await session.change_all(
        "DELETE FROM policies WHERE tenant = :tenant AND id = :id",
        [{"tenant": rule.tenant, "id": rule.id} for rule in removed],
    )
    await session.change_all(_INSERT, [_row(rule, revision) for rule in added])


async def _tenant_revision(session: Session, tenant: str) -> int:
    select = "SELECT number FROM policy_revisions WHERE tenant = :tenant"
    row = await session.row(select, {"tenant": tenant})
    return int(row["number"]) if row else 0


def _stale(tenant: str, current: int, expected: int) -> ControlError:
    text = f"the rules of {tenant} have changed: they are at revision {current}, not {expected}"
    return ControlError("FAILED_PRECONDITION", f"{text}; look at them again")


def _tenant_of(rule: Rule) -> str:
    return rule.tenant


def _row(rule: Rule, revision: int) -> dict[str, Value]:
    return {**dataclasses.asdict(rule), "revision": revision}


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

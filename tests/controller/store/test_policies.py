"""Rules in the store: revisions of tenants, batches, what an older file brings along."""

from __future__ import annotations

from pathlib import Path

import aiosqlite

from outrelay.controller.store import PolicyChange, open_store
from outrelay.controller.store.database import migrate, migrations
from tests.lib.policy.rules import allow

NOW = 1_700_000_000_000


async def test_a_file_of_the_first_version_knows_its_tenants_revisions(tmp_path: Path) -> None:
    path = str(tmp_path / "x.db")
    async with aiosqlite.connect(path, isolation_level=None) as connection:
        await migrate(connection, path, migrations()[:1])
        for rule_id, revision in (("1", 4), ("2", 7), ("3", 5)):
            await connection.execute(
                "INSERT INTO policies VALUES ('acme', ?, '*', 'db', '', 1, 0, 0, 0, 0, ?)",
                (rule_id, revision),
            )
        await connection.execute("UPDATE revision SET number = 9")
    async with open_store(path) as store:
        snapshot = await store.policies.snapshot("acme")
        assert (snapshot.revision, snapshot.tenant_revision) == (9, 7)
        assert (await store.policies.snapshot("other")).tenant_revision == 0
        assert await store.policies.replace("acme", [], expected_revision=7) == 8


async def test_rules_of_several_tenants_that_expire_are_a_batch_for_each(tmp_path: Path) -> None:
    gone = [
        allow(id=rule_id, tenant=tenant, expires_ms=NOW)
        for rule_id, tenant in (("1", "acme"), ("2", "other"), ("3", "acme"))
    ]
    async with open_store(str(tmp_path / "x.db")) as store:
        for rule in gone:
            assert await store.policies.add(rule)
        with store.policies.feed.subscribe(lambda _: True) as batches:
            assert await store.policies.remove_expired(NOW + 1) == 3
            first, second = [await anext(batches) for _ in range(2)]
        assert (first.tenant, second.tenant) == ("acme", "other")
        assert first.revision < second.revision
        assert sorted(each.rule.id for each in first.changes) == ["1", "3"]
        assert second.changes == (PolicyChange.removed(gone[1]),)


async def test_a_large_replacement_is_one_item_of_a_watchers_queue(tmp_path: Path) -> None:
    rules = [allow(id=str(number)) for number in range(1000)]
    async with open_store(str(tmp_path / "x.db")) as store:
        with store.policies.feed.subscribe(lambda _: True) as batches:
            revision = await store.policies.replace("acme", rules, expected_revision=0)
            batch = await anext(batches)
        assert batch.tenant_revision == revision
        assert batch.changes == tuple(map(PolicyChange.added, rules))
        snapshot = await store.policies.snapshot("acme")
        assert sorted(snapshot.rules, key=str) == sorted(rules, key=str)

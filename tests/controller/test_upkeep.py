"""What the controller does by itself: old events, old rules, and what if the database fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from outrelay.controller import upkeep
from outrelay.controller.registry.relays import DEAD_AFTER, Relays
from outrelay.controller.store import AuditQuery, Bindings, Relay, Service, Store, open_store
from outrelay.controller.upkeep import (
    every,
    forget_expired_rules,
    forget_old_events,
    sweep_relays,
)
from outrelay.lib.control.v1 import audit_pb2
from outrelay.lib.errors import StoreError
from outrelay.lib.tasks import beside
from tests.controller.live import AGENT_A
from tests.lib.policy.rules import allow

NOW = 10**12
DAY_MS = 24 * 3600 * 1000


async def stored(store: Store) -> list[int]:
    found = store.audit.query(AuditQuery(tenant="acme"))
    return [each.event.ts_unix_ms async for each in found]


async def test_old_events_go_in_small_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "RETENTION_BATCH", 3)
    async with open_store(str(tmp_path / "x.db")) as store:
        events = [
            audit_pb2.AuditEvent(tenant="acme", event_id=str(age), ts_unix_ms=NOW - age * 1000)
            for age in range(20)
        ]
        await store.audit.record(events)
        sizes = []
        remove = store.audit.remove_before

        async def counted(before_ms: int, *, limit: int) -> int:
            sizes.append(await remove(before_ms, limit=limit))
            return sizes[-1]

        monkeypatch.setattr(store.audit, "remove_before", counted)
        await forget_old_events(store.audit, lambda: NOW, retention=10)
        assert await stored(store) == [NOW - age * 1000 for age in range(11)]
        assert sizes == [3, 3, 3, 0]


async def test_expired_rules_go_a_day_later_and_watchers_hear_it(tmp_path: Path) -> None:
    async with open_store(str(tmp_path / "x.db")) as store:
        for rule_id, expires in (("old", NOW), ("new", NOW + 2), ("never", 0)):
            await store.policies.add(allow(id=rule_id, expires_ms=expires))
        with store.policies.feed.subscribe(lambda _: True) as changes:
            await forget_expired_rules(store.policies, lambda: NOW + DAY_MS)
            await forget_expired_rules(store.policies, lambda: NOW + DAY_MS + 1)
            assert [each.rule.id for each in (await anext(changes)).changes] == ["old"]
        left = await store.policies.snapshot("acme")
        assert {rule.id for rule in left.rules} == {"new", "never"}


async def test_a_death_the_database_did_not_take_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    async with open_store(str(tmp_path / "x.db")) as store:
        await store.bindings.upsert_relay(Relay(id="r1"), holder="", beating=True)
        service = Service(tenant="acme", name="db", agent_uri=AGENT_A, relay_id="r1")
        await store.bindings.register(service, holder="", now_ms=NOW)
        relays = Relays(await store.bindings.relays(), lambda: now)
        for _ in range(40):
            now += 1
            if now == DEAD_AFTER + 1:
                break
            relays.sweep()

        async def broken(_self: Bindings, _ids: object, *, alive: bool) -> None:
            raise StoreError("x.db", "disk full")

        with monkeypatch.context() as patch:
            patch.setattr(Bindings, "set_alive", broken)
            with pytest.raises(StoreError):
                await sweep_relays(relays, store.bindings)
        assert await store.bindings.resolve("acme", "db")
        await sweep_relays(relays, store.bindings)
        assert await store.bindings.resolve("acme", "db") == []
        assert [status.alive for status in await store.bindings.relays()] == [False]


async def test_a_round_that_fails_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    rounds = 0
    third = asyncio.Event()

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            third.set()
        raise StoreError("x.db", "disk full")

    async with beside(every(0, work), name="upkeep"):
        await third.wait()
    assert "disk full" in caplog.text

"""Relays and bindings: what is written, and what is published, only when something is new."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from outrelay.controller.registry.operators import _service
from outrelay.controller.store import IN_MEMORY, Relay, Service, Store, open_store
from outrelay.controller.store.session import Parameters, Session
from outrelay.lib.control.v1 import registry_pb2
from tests.controller.live import AGENT_A, AGENT_B

R1 = Relay(id="r1", region="local", endpoint="127.0.0.1:7443")


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store(IN_MEMORY) as opened:
        yield opened


def service(name: str = "db", agent: str = AGENT_A, relay: str = "r1") -> Service:
    return Service(tenant="acme", name=name, agent_uri=agent, relay_id=relay)


async def register(store: Store, *services: Service) -> None:
    for each in services:
        await store.bindings.register(each, holder="", now_ms=1)


async def test_a_beat_that_says_nothing_new_writes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.bindings.upsert_relay(R1, holder="", beating=True)
    written = []
    change = Session.change

    async def counted(session: Session, statement: str, parameters: Parameters) -> int:
        written.append(statement)
        return await change(session, statement, parameters)

    monkeypatch.setattr(Session, "change", counted)
    await store.bindings.upsert_relay(R1, holder="", beating=True)
    assert not written


async def test_a_relay_dies_once_and_returns_once(store: Store) -> None:
    await store.bindings.upsert_relay(R1, holder="", beating=True)
    await register(store, service(), service("web"), service(agent=AGENT_B, relay="r2"))
    with store.bindings.feed.subscribe(lambda _: True) as changes:
        for alive in (False, False, True, True):
            await store.bindings.set_alive(["r1", "unknown"], alive=alive)
        seen = [await anext(changes) for _ in range(4)]
        assert not changes._changes
    assert [change.live for change in seen] == [False, False, True, True]
    assert {change.binding.service.relay_id for change in seen} == {"r1"}
    assert seen[0].revision == seen[1].revision < seen[2].revision == seen[3].revision


async def test_a_dead_relays_beat_brings_its_bindings_back(store: Store) -> None:
    await store.bindings.upsert_relay(R1, holder="", beating=True)
    await register(store, service())
    await store.bindings.set_alive(["r1"], alive=False)
    with store.bindings.feed.subscribe(lambda _: True) as changes:
        await store.bindings.upsert_relay(R1, holder="", beating=True)
        assert (await anext(changes)).live


async def test_a_snapshot_has_the_revision_it_is_of(store: Store) -> None:
    await register(store, service(), service("web"))
    bindings, revision = await store.bindings.snapshot("acme")
    assert max(binding.revision for binding in bindings) == revision
    assert await store.bindings.snapshot("other") == ([], revision)
    assert len((await store.bindings.snapshot(None))[0]) == 2


async def test_what_is_not_there_is_not_deregistered(store: Store) -> None:
    _, before = await store.bindings.snapshot(None)
    gone = await store.bindings.deregister(tenant="acme", agent_uri=AGENT_A, relay_id="r1")
    assert gone == 0
    assert (await store.bindings.snapshot(None))[1] == before


async def test_a_relay_keeps_its_holder_and_rhythm_over_a_restart(store: Store) -> None:
    await store.bindings.upsert_relay(R1, holder="outrelay://local/relay/r1", beating=True)
    (status,) = await store.bindings.relays()
    assert (status.holder, status.beating, status.alive) == (
        "outrelay://local/relay/r1",
        True,
        True,
    )


async def test_relays_are_listed_with_what_is_known_and_whether_a_tenant_is_there(
    store: Store,
) -> None:
    await store.bindings.upsert_relay(R1, holder="outrelay://local/relay/r1", beating=True)
    await register(store, service(relay="r2"))
    await store.bindings.set_alive(["r1"], alive=False)
    for tenant, serve in (("", [False, True]), ("acme", [False, True]), ("globex", [False] * 2)):
        assert [each.serves for each in await store.bindings.list_relays(tenant)] == serve
    first, second = await store.bindings.list_relays("")
    assert first.relay == R1
    assert (first.status.holder, first.status.alive) == ("outrelay://local/relay/r1", False)
    assert (second.relay.id, second.status.alive) == ("r2", True)


async def test_services_are_listed_in_order_those_of_the_dead_too(store: Store) -> None:
    await register(store, service("web"), service(agent=AGENT_B, relay="r2"), service())
    await store.bindings.set_alive(["r2"], alive=False)
    listed = await store.bindings.list_services("acme", 10)
    assert [(each.service.name, each.service.agent_uri) for each in listed] == [
        ("db", AGENT_A),
        ("db", AGENT_B),
        ("web", AGENT_A),
    ]
    assert [each.alive for each in listed] == [True, False, True]
    assert _service(listed[1]).state == registry_pb2.SERVICE_STATE_DEAD
    assert len(await store.bindings.list_services("", 2)) == 2
    assert await store.bindings.list_services("globex", 10) == []

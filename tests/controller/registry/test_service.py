"""The Registry rpcs against a live controller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf.message import Message

from outrelay.controller import upkeep
from outrelay.controller.clock import now_ms as unix_ms
from outrelay.controller.feed import QUEUE_LIMIT
from outrelay.controller.registry import relays as relays_module
from outrelay.controller.store import Binding, Bindings, Service
from outrelay.lib.control.v1 import registry_pb2 as pb
from outrelay.lib.tasks import spawn
from tests.controller.live import (
    AGENT_A,
    AGENT_B,
    ALL_TENANTS,
    SNAPSHOT,
    TIMEOUT,
    LiveController,
    Stubs,
    refused,
    registration,
    relay_beat,
)

OTHER_TENANTS_AGENT = AGENT_A.replace("acme", "other")
Event = tuple[int, str, str, str]
REGISTER, DEREGISTER = pb.EVENT_KIND_REGISTER, pb.EVENT_KIND_DEREGISTER


async def resolve(stubs: Stubs, name: str = "db", region: str = "") -> list[pb.Provider]:
    request = pb.ResolveRequest(tenant="acme", service_name=name, caller_region=region)
    return list((await stubs.registry.Resolve(request, timeout=TIMEOUT)).providers)


def short(event: pb.WatchEvent) -> Event:
    return event.kind, event.service_name, event.provider.agent_uri, event.provider.relay_id


async def take(watch: grpc.aio.UnaryStreamCall[pb.WatchRequest, pb.WatchEvent]) -> pb.WatchEvent:
    """The next event of a Watch."""
    event = await watch.read()
    assert isinstance(event, pb.WatchEvent)
    return event


@asynccontextmanager
async def watching(
    stubs: Stubs, request: pb.WatchRequest, *metadata: tuple[str, str]
) -> AsyncIterator[grpc.aio.UnaryStreamCall[pb.WatchRequest, pb.WatchEvent]]:
    """A Watch that misses nothing from here on."""
    watch = stubs.registry.Watch(request, metadata=metadata, timeout=TIMEOUT)
    await watch.initial_metadata()
    yield watch
    watch.cancel()


@pytest.fixture
async def relay(controller: LiveController) -> AsyncIterator[Stubs]:
    """The relay r1, which has said where it is."""
    async with controller.as_relay("r1") as stubs:
        await stubs.registry.UpsertRelay(relay_beat("r1"))
        yield stubs


class TestRegister:
    async def test_makes_a_provider(self, relay: Stubs) -> None:
        response = await relay.registry.RegisterService(
            registration(local_addr="10.0.0.1:5432", weight=3, priority=2)
        )
        assert response.service_id == "acme/db"
        (provider,) = await resolve(relay)
        assert provider.service_id == "acme/db"
        assert provider.agent_uri == AGENT_A
        assert provider.relay_id == "r1"
        assert provider.local_addr == "10.0.0.1:5432"
        assert provider.relay_endpoint == "127.0.0.1:7443"
        assert provider.region == "local"
        assert (provider.weight, provider.priority, provider.healthy) == (3, 2, True)
        assert provider.revision > 0
        assert provider.updated_at_unix_ms > 1_700_000_000_000

    async def test_works_before_the_relay_has_said_where_it_is(
        self, controller: LiveController
    ) -> None:
        async with controller.as_relay("new") as stubs:
            await stubs.registry.RegisterService(registration(relay="new"))
            assert [each.relay_endpoint for each in await resolve(stubs)] == [""]

    async def test_again_is_one_row_with_a_later_revision(self, relay: Stubs) -> None:
        revisions = []
        for _ in range(2):
            await relay.registry.RegisterService(registration())
            (provider,) = await resolve(relay)
            revisions.append(provider.revision)
        assert revisions[0] < revisions[1]

    async def test_a_service_has_any_number_of_providers(self, relay: Stubs) -> None:
        for agent in (AGENT_A, AGENT_B):
            await relay.registry.RegisterService(registration(agent=agent))
        await relay.registry.RegisterService(registration("web"))
        assert {each.agent_uri for each in await resolve(relay)} == {AGENT_A, AGENT_B}

    async def test_tenants_do_not_meet(self, relay: Stubs) -> None:
        await relay.registry.RegisterService(registration(agent=OTHER_TENANTS_AGENT))
        assert await resolve(relay) == []

    @pytest.mark.parametrize(
        ("request_", "field"),
        [
            (registration(relay=""), "relay_id: must be given"),
            (registration(relay="x" * 2000), "relay_id: has 2000 characters"),
            (registration("a/b"), "service_name:"),
            (registration(""), "service_name:"),
            (registration("x" * 256), "service_name:"),
            (pb.RegisterServiceRequest(service_name="db", agent_uri=AGENT_A), "tenant:"),
            (
                pb.RegisterServiceRequest(
                    tenant="other", service_name="db", agent_uri=AGENT_A, relay_id="r1"
                ),
                "tenant: other is not the tenant of",
            ),
            (registration(agent="outrelay://acme/agent/me"), "agent_uri:"),
            (registration(agent="outrelay://acme/relay/r1"), "agent_uri: outrelay://acme/relay/r1"),
            (registration(local_addr="a\nb"), "local_addr: must be printable"),
        ],
    )
    async def test_a_bad_field_is_named(
        self, relay: Stubs, request_: pb.RegisterServiceRequest, field: str
    ) -> None:
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, field):
            await relay.registry.RegisterService(request_)


class TestDeregister:
    async def test_an_agent_takes_all_its_services(self, relay: Stubs) -> None:
        for name in ("db", "web"):
            await relay.registry.RegisterService(registration(name))
        await relay.registry.RegisterService(registration(agent=AGENT_B))
        await relay.registry.DeregisterAgent(
            pb.DeregisterAgentRequest(tenant="acme", agent_uri=AGENT_A, relay_id="r1")
        )
        assert await resolve(relay, "web") == []
        assert [each.agent_uri for each in await resolve(relay)] == [AGENT_B]

    async def test_a_service_goes_alone(self, relay: Stubs) -> None:
        for name in ("db", "web"):
            await relay.registry.RegisterService(registration(name))
        await relay.registry.DeregisterService(
            pb.DeregisterServiceRequest(
                tenant="acme", service_name="db", agent_uri=AGENT_A, relay_id="r1"
            )
        )
        assert await resolve(relay) == []
        assert len(await resolve(relay, "web")) == 1

    async def test_a_late_one_from_the_relay_an_agent_left_removes_nothing(
        self, controller: LiveController, relay: Stubs
    ) -> None:
        await relay.registry.RegisterService(registration())
        async with controller.as_relay("r2") as second:
            await second.registry.RegisterService(registration(relay="r2"))
            async with watching(second, pb.WatchRequest(tenant="acme")) as watch:
                await relay.registry.DeregisterAgent(
                    pb.DeregisterAgentRequest(tenant="acme", agent_uri=AGENT_A, relay_id="r1")
                )
                assert [each.relay_id for each in await resolve(second)] == ["r2"]
                await second.registry.RegisterService(registration("next", relay="r2"))
                assert short(await take(watch))[1] == "next"  # no event came before


class TestHolders:
    async def test_a_relay_speaks_for_its_own_id_only(
        self, controller: LiveController, relay: Stubs
    ) -> None:
        async with controller.as_relay("r2") as other:
            agent = {"tenant": "acme", "agent_uri": AGENT_A, "relay_id": "r1"}
            calls: list[tuple[object, Message]] = [
                (other.registry.UpsertRelay, relay_beat("r1")),
                (other.registry.RegisterService, registration(relay="r1")),
                (other.registry.DeregisterAgent, pb.DeregisterAgentRequest(**agent)),
                (
                    other.registry.DeregisterService,
                    pb.DeregisterServiceRequest(service_name="db", **agent),
                ),
            ]
            for call, request in calls:
                async with refused(
                    grpc.StatusCode.PERMISSION_DENIED, "r1 is held by outrelay://local/relay/r1"
                ):
                    await call(request)  # type: ignore[operator]


class TestUpsert:
    @pytest.mark.parametrize(
        ("request_", "field"),
        [
            (relay_beat(""), "id: must be given"),
            (relay_beat(endpoint=""), "endpoint: must be given"),
            (relay_beat(endpoint="nowhere"), "endpoint: must be host:port"),
            (relay_beat(tcp_endpoint="a\tb"), "tcp_endpoint: must be printable"),
        ],
    )
    async def test_a_bad_field_is_named(
        self, relay: Stubs, request_: pb.UpsertRelayRequest, field: str
    ) -> None:
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, field):
            await relay.registry.UpsertRelay(request_)

    async def test_is_told_the_time(self, relay: Stubs) -> None:
        before = unix_ms()
        answer = await relay.registry.UpsertRelay(relay_beat())
        assert before <= answer.server_time_unix_ms <= unix_ms()

    async def test_what_providers_show_of_it_is_told_when_it_changes(self, relay: Stubs) -> None:
        await relay.registry.RegisterService(registration())
        async with watching(relay, pb.WatchRequest(tenant="acme")) as watch:
            await relay.registry.UpsertRelay(relay_beat())
            await relay.registry.UpsertRelay(relay_beat(load=7))
            await relay.registry.UpsertRelay(relay_beat(draining=True))
            event = await take(watch)
            assert short(event) == (REGISTER, "db", AGENT_A, "r1")
            assert not event.provider.healthy
            await relay.registry.UpsertRelay(relay_beat(endpoint="10.0.0.9:7443"))
            event = await take(watch)
            assert event.provider.relay_endpoint == "10.0.0.9:7443"
            assert event.provider.healthy


class TestResolve:
    async def test_prefers_the_callers_region(
        self, controller: LiveController, relay: Stubs
    ) -> None:
        await relay.registry.RegisterService(registration())
        async with controller.as_relay("far", region="eu") as far:
            await far.registry.UpsertRelay(relay_beat("far", region="eu"))
            await far.registry.RegisterService(registration(agent=AGENT_B, relay="far"))
        for region, first in (("eu", AGENT_B), ("local", AGENT_A)):
            assert (await resolve(relay, region=region))[0].agent_uri == first


class TestWatch:
    async def test_tells_changes_from_then_on(self, relay: Stubs) -> None:
        await relay.registry.RegisterService(registration("before"))
        async with watching(relay, pb.WatchRequest(tenant="acme")) as watch:
            await relay.registry.RegisterService(registration())
            assert short(await take(watch)) == (REGISTER, "db", AGENT_A, "r1")
            await relay.registry.DeregisterAgent(
                pb.DeregisterAgentRequest(tenant="acme", agent_uri=AGENT_A, relay_id="r1")
            )
            gone = {short(await take(watch)) for _ in range(2)}
            assert gone == {(DEREGISTER, name, AGENT_A, "r1") for name in ("before", "db")}

    async def test_begins_with_a_snapshot_when_asked(self, relay: Stubs) -> None:
        await relay.registry.RegisterService(registration())
        await relay.registry.RegisterService(registration(agent=OTHER_TENANTS_AGENT))
        async with watching(relay, pb.WatchRequest(tenant="acme"), SNAPSHOT) as watch:
            assert short(await take(watch)) == (REGISTER, "db", AGENT_A, "r1")
            assert (await take(watch)).kind == pb.EVENT_KIND_SNAPSHOT_END
            await relay.registry.RegisterService(registration("web"))
            assert short(await take(watch))[1] == "web"

    async def test_what_changes_around_the_snapshot_comes_once(
        self, relay: Stubs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Just before the snapshot is read, and just after, when it is about to be sent."""
        snapshot = Bindings.snapshot

        async def add(bindings: Bindings, name: str) -> None:
            service = Service(tenant="acme", name=name, agent_uri=AGENT_A, relay_id="r1")
            await bindings.register(service, holder="", now_ms=1)

        async def busy(bindings: Bindings, tenant: str | None) -> tuple[list[Binding], int]:
            await add(bindings, "before")
            read = await snapshot(bindings, tenant)
            await add(bindings, "after")
            return read

        monkeypatch.setattr(Bindings, "snapshot", busy)
        async with watching(relay, pb.WatchRequest(tenant="acme"), SNAPSHOT) as watch:
            events = [await take(watch) for _ in range(3)]
            await relay.registry.RegisterService(registration("last"))
            events.append(await take(watch))
        assert [event.service_name for event in events] == ["before", "", "after", "last"]
        assert events[1].kind == pb.EVENT_KIND_SNAPSHOT_END

    async def test_tells_some_services_or_those_of_all_tenants(self, relay: Stubs) -> None:
        some = pb.WatchRequest(tenant="acme", service_names=["db", "mail"])
        everything = watching(relay, pb.WatchRequest(), SNAPSHOT, ALL_TENANTS)
        async with watching(relay, some) as chosen, everything as all_of_it:
            assert (await take(all_of_it)).kind == pb.EVENT_KIND_SNAPSHOT_END
            await relay.registry.RegisterService(registration(agent=OTHER_TENANTS_AGENT))
            await relay.registry.RegisterService(registration("web"))
            await relay.registry.RegisterService(registration("mail"))
            services = [(await take(all_of_it)).provider.service_id for _ in range(3)]
            assert services == ["other/db", "acme/web", "acme/mail"]
            assert short(await take(chosen))[1] == "mail"

    async def test_needs_a_tenant(self, relay: Stubs) -> None:
        for request in (pb.WatchRequest(), pb.WatchRequest(tenant="No Tenant")):
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, "tenant:"):
                await relay.registry.Watch(request).read()

    async def test_a_watcher_too_far_behind_is_cut_and_recovers(self, relay: Stubs) -> None:
        """One change of a relay that many services are behind: more than a queue holds."""
        count = QUEUE_LIMIT + 1
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                call = relay.registry.RegisterService(registration(f"s{number}"))
                spawn(group, _awaited(call), name=f"register {number}")
        async with watching(relay, pb.WatchRequest(tenant="acme")) as watch:
            await relay.registry.UpsertRelay(relay_beat(endpoint="10.0.0.9:7443"))
            async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "watch again"):
                for _ in range(count):
                    await take(watch)
        async with watching(relay, pb.WatchRequest(tenant="acme"), SNAPSHOT) as again:
            events = [await take(again) for _ in range(count + 1)]
            assert events[-1].kind == pb.EVENT_KIND_SNAPSHOT_END
            assert {each.provider.relay_endpoint for each in events[:-1]} == {"10.0.0.9:7443"}


async def _awaited(call: Awaitable[object]) -> None:
    await call


class TestDeath:
    async def test_a_silent_relays_providers_go_and_come_back(
        self, controller: LiveController, relay: Stubs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Real sweeps; only how long a silence means death is shortened."""
        async with controller.as_relay("mortal") as mortal:
            for _ in range(2):
                await mortal.registry.UpsertRelay(relay_beat("mortal"))
            await mortal.registry.RegisterService(registration(relay="mortal"))
            async with watching(relay, pb.WatchRequest(tenant="acme"), SNAPSHOT) as watch:
                await take(watch)
                await take(watch)
                monkeypatch.setattr(relays_module, "DEAD_AFTER", 0.0)
                assert short(await take(watch)) == (DEREGISTER, "db", AGENT_A, "mortal")
                assert await resolve(relay) == []
                async with watching(relay, pb.WatchRequest(tenant="acme"), SNAPSHOT) as later:
                    assert (await take(later)).kind == pb.EVENT_KIND_SNAPSHOT_END

                monkeypatch.setattr(relays_module, "DEAD_AFTER", 30.0)
                await mortal.registry.UpsertRelay(relay_beat("mortal"))
                assert short(await take(watch)) == (REGISTER, "db", AGENT_A, "mortal")
                assert len(await resolve(relay)) == 1

    async def test_registering_again_brings_a_relay_back_too(
        self, controller: LiveController, relay: Stubs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with controller.as_relay("mortal") as mortal:
            for _ in range(2):
                await mortal.registry.UpsertRelay(relay_beat("mortal"))
            await mortal.registry.RegisterService(registration(relay="mortal"))
            async with watching(relay, pb.WatchRequest(tenant="acme")) as watch:
                monkeypatch.setattr(relays_module, "DEAD_AFTER", 0.0)
                assert (await take(watch)).kind == DEREGISTER
                monkeypatch.setattr(relays_module, "DEAD_AFTER", 30.0)
                await mortal.registry.RegisterService(registration("web", relay="mortal"))
                back = {short(await take(watch))[1] for _ in range(2)}
                assert back == {"db", "web"}

    @pytest.fixture(autouse=True)
    def sweep_often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(upkeep, "SWEEP_EVERY", 0.02)

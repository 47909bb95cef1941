"""What operators ask the registry, against a live controller and scripted relays."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from outrelay.controller.fleet import attachments
from outrelay.lib.control.v1 import fleet_pb2, registry_pb2
from tests.controller.fleet.scripted import ScriptedRelay, agent, attached
from tests.controller.live import (
    AGENT_A,
    AGENT_B,
    TIMEOUT,
    LiveController,
    Stubs,
    refused,
    registration,
    relay_beat,
)

OTHER = "outrelay://other/agent/00000000-0000-4000-8000-00000000000c"


@pytest.fixture
async def operator(controller: LiveController) -> AsyncIterator[Stubs]:
    """An operator of acme."""
    async with controller.as_operator("acme") as stubs:
        yield stubs


@pytest.fixture
async def system(controller: LiveController) -> AsyncIterator[Stubs]:
    """An operator of everybody."""
    async with controller.as_operator("system") as stubs:
        yield stubs


@pytest.fixture
async def r1(controller: LiveController) -> AsyncIterator[ScriptedRelay]:
    """A relay that is attached, with a service of acme and one of another tenant."""
    async with controller.as_relay("r1") as stubs:
        await stubs.registry.UpsertRelay(relay_beat("r1", tcp_endpoint="127.0.0.1:443"))
        for each in (registration("db", AGENT_A), registration("db", OTHER)):
            await stubs.registry.RegisterService(each)
        async with attached(stubs, "r1") as relay:
            yield relay


@pytest.fixture
async def r2(controller: LiveController) -> ScriptedRelay | None:
    """A relay that only beats, as those of other implementations do; nobody is there."""
    async with controller.as_relay("r2") as stubs:
        await stubs.registry.UpsertRelay(relay_beat("r2", region="eu", draining=True))
    return None


async def relays(stubs: Stubs, tenant: str = "", limit: int = 0) -> registry_pb2.ListRelaysResponse:
    request = registry_pb2.ListRelaysRequest(tenant=tenant, limit=limit)
    return await stubs.registry.ListRelays(request, timeout=TIMEOUT)


async def agents(
    stubs: Stubs, tenant: str = "acme", limit: int = 0
) -> registry_pb2.ListAgentsResponse:
    request = registry_pb2.ListAgentsRequest(tenant=tenant, limit=limit)
    return await stubs.registry.ListAgents(request, timeout=TIMEOUT)


async def services(
    stubs: Stubs, tenant: str = "acme", limit: int = 0
) -> registry_pb2.ListServicesResponse:
    request = registry_pb2.ListServicesRequest(tenant=tenant, limit=limit)
    return await stubs.registry.ListServices(request, timeout=TIMEOUT)


async def drain(stubs: Stubs, relay_id: str, reason: str = "") -> registry_pb2.DrainRelayResponse:
    request = registry_pb2.DrainRelayRequest(relay_id=relay_id, reason=reason)
    return await stubs.registry.DrainRelay(request, timeout=TIMEOUT)


class TestRelays:
    async def test_what_they_say_is_put_to_what_is_known(
        self, system: Stubs, r1: ScriptedRelay, r2: None
    ) -> None:
        r1.status = fleet_pb2.RelayStatus(version="1.2", streams=3, bytes_up=7)
        r1.agents = [agent(), agent(OTHER)]
        first, second = (await relays(system)).relays
        assert (first.id, first.endpoint, first.tcp_endpoint) == (
            "r1",
            "127.0.0.1:7443",
            "127.0.0.1:443",
        )
        assert (first.version, first.agents, first.streams, first.bytes_up) == ("1.2", 2, 3, 7)
        assert (first.alive, first.draining, first.holder) == (
            True,
            False,
            "outrelay://local/relay/r1",
        )
        assert first.attached_unix_ms > 0
        assert (second.id, second.region, second.draining) == ("r2", "eu", True)
        assert (second.attached_unix_ms, second.version) == (0, "")

    async def test_a_tenant_sees_those_where_it_has_something(
        self, operator: Stubs, controller: LiveController, r1: ScriptedRelay, r2: None
    ) -> None:
        assert [each.id for each in (await relays(operator, "acme")).relays] == ["r1"]
        (command,) = r1.asked
        assert command.status.tenant == "acme"
        async with controller.as_operator("nobody") as nobody:
            assert list((await relays(nobody, "nobody")).relays) == []
            r1.agents = [agent("outrelay://nobody/agent/00000000-0000-4000-8000-00000000000d")]
            assert [each.id for each in (await relays(nobody, "nobody")).relays] == ["r1"]
        async with refused(grpc.StatusCode.PERMISSION_DENIED, "not all tenants"):
            await relays(operator)

    async def test_more_than_the_limit_is_said(
        self, system: Stubs, r1: ScriptedRelay, r2: None
    ) -> None:
        answer = await relays(system, limit=1)
        assert [each.id for each in answer.relays] == ["r1"]
        assert answer.truncated
        assert not (await relays(system, limit=2)).truncated

    async def test_a_silent_one_is_named_to_who_may_know_it(
        self,
        system: Stubs,
        controller: LiveController,
        r1: ScriptedRelay,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(attachments, "ANSWER_TIMEOUT", 0.1)
        r1.answers = False
        assert list((await relays(system)).silent_relays) == ["r1"]
        async with controller.as_operator("nobody") as nobody:
            assert await relays(nobody, "nobody") == registry_pb2.ListRelaysResponse()


class TestAgents:
    async def test_come_by_name_the_newest_connection_first(
        self, operator: Stubs, r1: ScriptedRelay
    ) -> None:
        r1.agents = [agent(AGENT_B), agent(since_unix_ms=1), agent(relay_id="a lie")]
        told = (await agents(operator)).agents
        assert [(each.agent_uri, each.since_unix_ms) for each in told] == [
            (AGENT_A, 1000),
            (AGENT_A, 1),
            (AGENT_B, 1000),
        ]
        assert {each.relay_id for each in told} == {"r1"}

    async def test_are_ones_own_whatever_the_relay_says(
        self, operator: Stubs, system: Stubs, r1: ScriptedRelay
    ) -> None:
        r1.agents = [agent(), agent(OTHER)]
        assert [each.tenant for each in (await agents(operator)).agents] == ["acme"]
        assert [each.tenant for each in (await agents(system, "")).agents] == ["acme", "other"]
        async with refused(grpc.StatusCode.PERMISSION_DENIED, "not of other"):
            await agents(operator, "other")

    async def test_end_at_the_limit(self, operator: Stubs, r1: ScriptedRelay) -> None:
        r1.agents = [agent(since_unix_ms=number) for number in range(20)]
        answer = await agents(operator, limit=2)
        assert (len(answer.agents), answer.truncated) == (2, True)
        (command,) = r1.asked
        assert command.agents == registry_pb2.ListAgentsRequest(tenant="acme", limit=3)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "limit: must be at most 10000"):
            await agents(operator, limit=10_001)

    async def test_of_a_silent_relay_are_missing(
        self, operator: Stubs, r1: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attachments, "ANSWER_TIMEOUT", 0.1)
        r1.answers = False
        assert list((await agents(operator)).silent_relays) == ["r1"]


class TestServices:
    async def test_are_the_rows_of_the_registry(
        self, operator: Stubs, system: Stubs, controller: LiveController, r1: ScriptedRelay
    ) -> None:
        async with controller.as_relay("r1") as stubs:
            more = registration("a", AGENT_B, local_addr="10.0.0.1:80", weight=2, priority=3)
            await stubs.registry.RegisterService(more)
        first, second = (await services(operator)).services
        assert (first.service, first.agent_uri, first.local_addr) == ("a", AGENT_B, "10.0.0.1:80")
        assert (first.weight, first.priority, first.region) == (2, 3, "local")
        assert (second.service, second.state) == ("db", registry_pb2.SERVICE_STATE_LIVE)
        assert second.updated_unix_ms > 0
        everybodys = [each.tenant for each in (await services(system, "")).services]
        assert everybodys == ["acme", "acme", "other"]

    async def test_of_a_relay_that_goes_or_is_gone_are_marked(
        self, operator: Stubs, controller: LiveController, r1: ScriptedRelay
    ) -> None:
        async with controller.as_relay("r1") as stubs:
            await stubs.registry.UpsertRelay(relay_beat("r1", draining=True))
        (only,) = (await services(operator)).services
        assert only.state == registry_pb2.SERVICE_STATE_DRAINING

    async def test_end_at_the_limit(self, system: Stubs, r1: ScriptedRelay) -> None:
        answer = await services(system, "", limit=1)
        assert (len(answer.services), answer.truncated) == (1, True)
        assert not (await services(system, "", limit=2)).truncated


class TestDrain:
    async def test_the_relay_is_told_by_whom_and_why(
        self, system: Stubs, r1: ScriptedRelay
    ) -> None:
        answer = await drain(system, "r1", "new kernel")
        assert (answer.streams, answer.drain_ms) == (0, 10_000)
        (command,) = r1.asked
        assert command.drain.reason == "outrelay://system/operator/admin: new kernel"
        await drain(system, "r1")
        assert r1.asked[-1].drain.reason == "outrelay://system/operator/admin"

    async def test_is_for_who_may_touch_every_tenant(
        self, operator: Stubs, r1: ScriptedRelay
    ) -> None:
        async with refused(grpc.StatusCode.PERMISSION_DENIED, "needs an operator of system"):
            await drain(operator, "r1")
        assert r1.asked == []

    async def test_of_a_relay_that_cannot_be_told_says_why(
        self, system: Stubs, r1: ScriptedRelay, r2: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with refused(grpc.StatusCode.NOT_FOUND, "there is no relay r9"):
            await drain(system, "r9")
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "r2 is not connected", "SIGTERM"):
            await drain(system, "r2")
        monkeypatch.setattr(attachments, "ANSWER_TIMEOUT", 0.1)
        r1.answers = False
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "r1 did not answer"):
            await drain(system, "r1")

"""Publishing: whatever happens meanwhile, the registry ends up with what is offered here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.tasks import beside
from outrelay.relay import registrations as module
from outrelay.relay.registrations import Registrations
from tests.relay.fake_controller import FakeController, fake_controller
from tests.relay.rooms import Rooms, relay_rooms
from tests.support.peers import AGENT_A, AGENT_B, AGENT_C, AgentPeer
from tests.support.turns import until


@dataclass(kw_only=True)
class Published:
    """A relay whose offers are published."""

    relay: Rooms
    fake: FakeController
    registrations: Registrations

    def names(self, rpc: str = "RegisterService") -> list[str]:
        """The services that calls were about."""
        if rpc == "RegisterService":
            made = self.fake.calls.of(rpc, registry.RegisterServiceRequest)
            return [request.service_name for request in made]
        gone = self.fake.calls.of(rpc, registry.DeregisterServiceRequest)
        return [request.service_name for request in gone]

    async def leave(self, peer: AgentPeer) -> None:
        """Have an agent leave."""
        peer.connection.close()
        await until(lambda: not self.relay.roster.of(peer.identity.uri))

    async def settled(self) -> None:
        """Wait until the registry has everything."""
        await self.registrations.wait_published()


@asynccontextmanager
async def published(directory: Path) -> AsyncIterator[Published]:
    async with (
        relay_rooms() as relay,
        fake_controller(directory) as fake,
        fake.line() as controller,
    ):
        registrations = Registrations(controller, relay.directory, "r1")
        async with beside(registrations.run(), name="registrations"):
            yield Published(relay=relay, fake=fake, registrations=registrations)


def row(name: str, agent: str = AGENT_B.uri, relay: str = "r1") -> registry.Provider:
    return registry.Provider(service_id=f"acme/{name}", agent_uri=agent, relay_id=relay)


async def test_what_an_agent_registers_is_published(tmp_path: Path) -> None:
    async with published(tmp_path) as made:
        peer = await made.relay.agent(AGENT_B)
        await peer.register("echo", local_addr="127.0.0.1:80", weight=2, priority=3)
        await made.settled()

        assert made.fake.calls.made == [
            (
                "RegisterService",
                registry.RegisterServiceRequest(
                    tenant="acme",
                    service_name="echo",
                    agent_uri=AGENT_B.uri,
                    relay_id="r1",
                    local_addr="127.0.0.1:80",
                    weight=2,
                    priority=3,
                ),
            )
        ]


async def test_what_has_not_changed_is_not_published_again(tmp_path: Path) -> None:
    async with published(tmp_path) as made:
        peer = await made.relay.agent(AGENT_B)
        await peer.register("echo")
        await made.settled()
        await peer.register("other")
        await peer.register("echo")
        await made.settled()
        assert made.names() == ["echo", "other"]

        await peer.register("echo", weight=7)
        await made.settled()
        assert made.names() == ["echo", "other", "echo"]


async def test_one_service_of_several_is_deregistered_alone(tmp_path: Path) -> None:
    async with published(tmp_path) as made:
        peer = await made.relay.agent(AGENT_B)
        await peer.register("echo")
        await peer.register("db")
        await made.settled()
        await peer.deregister("db")
        await made.settled()

        assert made.names("DeregisterService") == ["db"]
        await peer.register("db")
        await made.settled()
        assert made.names() == ["echo", "db", "db"]


async def test_an_agent_that_leaves_is_deregistered_in_one_call(tmp_path: Path) -> None:
    async with published(tmp_path) as made:
        peer = await made.relay.agent(AGENT_B)
        await peer.register("echo")
        await peer.register("db")
        await made.settled()
        await made.leave(peer)
        await made.settled()

        assert made.fake.calls.made[-1] == (
            "DeregisterAgent",
            registry.DeregisterAgentRequest(tenant="acme", agent_uri=AGENT_B.uri, relay_id="r1"),
        )
        assert made.names("DeregisterService") == []


async def test_a_controller_that_cannot_deregister_one_service(tmp_path: Path) -> None:
    async with published(tmp_path) as made:
        made.fake.failures["DeregisterService"] = grpc.StatusCode.UNIMPLEMENTED
        peer = await made.relay.agent(AGENT_B)
        await peer.register("echo")
        await peer.register("db")
        await made.settled()
        await peer.deregister("db")
        await made.settled()

        assert [name for name, _ in made.fake.calls.made] == [
            "RegisterService",
            "RegisterService",
            "DeregisterService",
            "DeregisterAgent",
            "RegisterService",
        ]
        assert made.names() == ["echo", "db", "echo"]


async def test_through_an_outage_the_latest_state_wins(tmp_path: Path) -> None:
    async with published(tmp_path) as made:
        made.fake.failures["RegisterService"] = grpc.StatusCode.UNAVAILABLE
        peer = await made.relay.agent(AGENT_B)
        await peer.register("fleeting")
        await peer.register("echo", weight=1)
        await made.fake.calls.number("RegisterService", 2)
        await peer.deregister("fleeting")
        await peer.register("echo", weight=2)
        tried = len(made.names())
        made.fake.failures.clear()
        await made.settled()

        assert set(made.names()[tried:]) == {"echo"}
        last = made.fake.calls.of("RegisterService", registry.RegisterServiceRequest)[-1]
        assert last.weight == 2


async def test_what_may_have_been_published_is_deregistered(tmp_path: Path) -> None:
    async with published(tmp_path) as made:
        made.fake.failures["RegisterService"] = grpc.StatusCode.DEADLINE_EXCEEDED
        peer = await made.relay.agent(AGENT_B)
        await peer.register("echo")
        await made.fake.calls.number("RegisterService", 1)
        await made.leave(peer)
        await made.settled()

        assert [name for name, _ in made.fake.calls.made][-1] == "DeregisterAgent"


async def test_an_agent_that_is_refused_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY", 3600)
    async with published(tmp_path) as made:
        made.fake.failures["RegisterService"] = grpc.StatusCode.PERMISSION_DENIED
        await made.relay.provider(AGENT_A, "echo")
        await made.settled()
        made.fake.failures.clear()
        await made.relay.provider(AGENT_B, "db")
        await made.settled()

        assert made.names() == ["echo", "db"]
    assert "registration is not published" in caplog.text


async def test_what_was_refused_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.01)
    async with published(tmp_path) as made:
        made.fake.failures["RegisterService"] = grpc.StatusCode.PERMISSION_DENIED
        await made.relay.provider(AGENT_A, "echo")
        await made.fake.calls.number("RegisterService", 3)
    assert caplog.text.count("registration is not published") == 1


async def test_many_agents_are_published(tmp_path: Path) -> None:
    async with published(tmp_path) as made:
        peer = await made.relay.agent(AGENT_B)
        for number in range(40):
            await peer.register(f"s{number}")
        others = [await made.relay.provider(agent) for agent in (AGENT_A, AGENT_C)]
        await made.settled()

        assert len(made.names()) == 42
        assert len(others) == 2


async def test_a_registry_that_has_lost_its_rows_gets_them_again(tmp_path: Path) -> None:
    async with published(tmp_path) as made:
        peer = await made.relay.agent(AGENT_B)
        await peer.register("echo")
        await peer.register("db")
        await made.settled()
        made.registrations.observed([row("db")])
        await made.settled()
        assert made.names() == ["echo", "db", "echo"]

        made.registrations.removed(AGENT_B.uri, "db")
        made.registrations.removed(AGENT_B.uri, "unheard of")
        await made.settled()
        assert made.names() == ["echo", "db", "echo", "db"]


async def test_rows_of_an_earlier_life_are_removed(tmp_path: Path) -> None:
    async with published(tmp_path) as made:
        made.registrations.observed([row("echo"), row("db", AGENT_C.uri)])
        await made.settled()

        gone = made.fake.calls.of("DeregisterAgent", registry.DeregisterAgentRequest)
        assert {request.agent_uri for request in gone} == {AGENT_B.uri, AGENT_C.uri}


async def test_rows_behind_another_relay_are_left_alone(tmp_path: Path) -> None:
    async with published(tmp_path) as made:
        peer = await made.relay.agent(AGENT_B)
        await peer.register("echo")
        await made.settled()
        made.registrations.observed([row("echo", relay="r2"), row("db", AGENT_C.uri, "r2")])
        await made.settled()
        assert made.names() == ["echo"]

        made.registrations.removed(AGENT_B.uri, "echo")  # the other relay has lost it
        await made.settled()
        assert made.names() == ["echo", "echo"]
        assert made.fake.calls.of("DeregisterAgent", registry.DeregisterAgentRequest) == []


async def test_a_snapshot_taken_before_a_registration_arrived_does_not_hide_it(
    tmp_path: Path,
) -> None:
    async with published(tmp_path) as made:
        peer = await made.relay.agent(AGENT_B)
        await peer.register("echo")
        await until(lambda: made.registrations._published.get(AGENT_B.uri) == {"echo": None})
        made.registrations.observed([])
        await made.leave(peer)
        await made.settled()

        last, _ = made.fake.calls.made[-1]
        assert last == "DeregisterAgent"

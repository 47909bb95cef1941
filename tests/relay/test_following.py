"""What is followed of which kind of controller, and what becomes of it when the kind changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from outrelay.lib.control.convert import rule_to_proto
from outrelay.lib.control.v1 import policy_pb2 as policy
from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.policy import Rule
from outrelay.lib.tasks import beside
from outrelay.relay import controller as line
from outrelay.relay.call import Call
from outrelay.relay.following import Following
from outrelay.relay.policy import tenants as module
from outrelay.relay.registrations import Registrations
from tests.relay.fake_controller import FakeController, fake_controller
from tests.relay.rooms import Rooms, relay_rooms, rule
from tests.relay.test_fleet import watched
from tests.support.events import Events, events
from tests.support.peers import AGENT_A, AGENT_B, STRANGER, AgentPeer

END = policy.PolicyEvent(kind=policy.PolicyEvent.POLICY_KIND_SNAPSHOT_END)
ROWS_END = registry.WatchEvent(kind=registry.EVENT_KIND_SNAPSHOT_END)
OURS = rule("db")
THEIRS = rule("db", tenant="globex")


def added(one: Rule) -> policy.PolicyEvent:
    return policy.PolicyEvent(kind=policy.PolicyEvent.POLICY_KIND_ADDED, rule=rule_to_proto(one))


@dataclass(kw_only=True)
class Made:
    """A relay that follows a controller."""

    relay: Rooms
    fake: FakeController
    registrations: Registrations
    seen: Events

    def allowed(self, tenant: str = "acme") -> bool:
        call = Call(tenant=tenant, caller=AGENT_A.uri, service="db")
        return self.relay.judge.judge_caller(call).allow

    def knows(self, tenant: str = "acme") -> bool:
        call = Call(tenant=tenant, caller=AGENT_A.uri, service="db")
        return "no controller" not in self.relay.judge.judge_caller(call).reason

    async def loaded(self, watch: str, *rules: Rule) -> None:
        """Tell a watch its rules."""
        before = len(self.seen.of("policy loaded"))
        await self.fake.tell(watch, *map(added, rules), END)
        await self.seen.wait("policy loaded", count=before + 1)

    def leave(self, peer: AgentPeer) -> None:
        for session in list(self.relay.roster.of(peer.identity.uri)):
            self.relay.roster.leave(session)


@asynccontextmanager
async def followed(directory: Path, *, tenant: str = "", plain: bool = True) -> AsyncIterator[Made]:
    with events() as seen:
        async with (
            relay_rooms(rules=None) as relay,
            fake_controller(directory) as fake,
            fake.line() as controller,
        ):
            fake.plain = plain
            registrations = Registrations(controller, relay.directory, "r1")
            following = Following(
                controller=controller,
                tenant=tenant,
                judge=relay.judge,
                directory=relay.directory,
                registrations=registrations,
                roster=relay.roster,
                fleet=watched(relay),
            )
            async with (
                beside(registrations.run(), name="registrations"),
                beside(following.run(), name="following"),
            ):
                yield Made(relay=relay, fake=fake, registrations=registrations, seen=seen)


async def test_an_extended_controller_is_asked_for_everything_at_once(tmp_path: Path) -> None:
    async with followed(tmp_path, plain=False) as made:
        await made.loaded("policy", OURS, THEIRS)
        await made.fake.tell("directory", ROWS_END)
        await made.seen.wait("directory loaded")
        await made.seen.wait("the controller does not offer this", follows="fleet")

        assert made.relay.directory.complete
        assert made.allowed()
        assert made.allowed("globex")
        for watch in ("policy", "directory"):
            asked = made.fake.metadata[watch].items()
            assert asked >= {"outrelay-snapshot": "1", "outrelay-all-tenants": "1"}.items()


@pytest.mark.parametrize("answer", ["an empty rule set", *sorted(line.NOT_OFFERED)])
async def test_a_plain_one_is_asked_for_the_tenants_that_have_agents_here(
    tmp_path: Path, answer: str
) -> None:
    async with followed(tmp_path) as made:
        if answer in line.NOT_OFFERED:
            made.fake.failures["Watch policy"] = grpc.StatusCode[answer]
        else:
            await made.fake.tell("policy", END)
        await made.seen.wait("the controller is a plain one: it knows only the common contract")
        assert not made.knows()

        await made.relay.agent(AGENT_A)
        await made.relay.agent(STRANGER)
        await made.loaded("policy of acme", OURS)
        assert made.allowed()
        assert not made.knows("globex")
        await made.loaded("policy of globex")
        assert made.knows("globex")
        assert not made.allowed("globex")

        await made.relay.agent(AGENT_B)
        watched = [name for name, _ in made.fake.calls.made if name.startswith("Watch policy of")]
        assert watched == ["Watch policy of acme", "Watch policy of globex"]


async def test_who_left_is_watched_for_a_while_and_then_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINGER", 0.2)
    async with followed(tmp_path) as made:
        stays = await made.relay.agent(STRANGER)
        await made.loaded("policy of globex", THEIRS)
        goes = await made.relay.agent(AGENT_A)
        await made.loaded("policy of acme", OURS)
        made.leave(goes)
        assert made.allowed()
        again = await made.relay.agent(AGENT_A)  # in time
        await asyncio.sleep(0)
        made.leave(again)

        await made.fake.calls.number("Watch policy of acme over", 1)
        assert not made.knows()
        assert made.allowed("globex")
        await made.relay.agent(AGENT_B)
        await made.loaded("policy of acme", OURS)
        assert made.allowed()
        assert made.relay.roster.of(stays.identity.uri)


async def test_the_rules_of_a_plain_one_are_those_of_the_tenant_alone(tmp_path: Path) -> None:
    async with followed(tmp_path) as made:
        await made.relay.agent(AGENT_A)
        await made.relay.agent(STRANGER)
        await made.loaded("policy of globex", THEIRS)
        await made.loaded("policy of acme", rule("web"), rule("db", rule_id="2", tenant="globex"))
        assert not made.allowed()

        gone = policy.PolicyEvent(
            kind=policy.PolicyEvent.POLICY_KIND_REMOVED,
            removed_id=THEIRS.id,
            rule=rule_to_proto(THEIRS),
        )
        await made.fake.tell("policy of acme", gone, added(rule("db", rule_id="3")))
        await made.seen.wait("policy rule added", id="3")
        assert made.allowed()
        assert made.allowed("globex")


async def test_a_plain_one_of_one_tenant_is_asked_for_that_tenant(tmp_path: Path) -> None:
    async with followed(tmp_path, tenant="acme") as made:
        await made.seen.wait("the controller is a plain one: it knows only the common contract")
        await made.fake.calls.number("Watch policy of acme over", 1)
        await made.loaded("policy of acme", OURS)
        assert made.allowed()
        assert "outrelay-all-tenants" not in made.fake.metadata["policy of acme"]
        asked = made.fake.calls.of("Watch directory of acme", registry.WatchRequest)
        assert all(request.tenant == "acme" for request in asked)


async def test_what_a_restarted_plain_one_has_lost_is_published_again(tmp_path: Path) -> None:
    async with followed(tmp_path) as made:
        provider = await made.relay.agent(AGENT_B)
        await provider.register("db")
        stranger = await made.relay.agent(STRANGER)
        await stranger.register("web")
        await made.registrations.wait_published()
        for tenant in ("acme", "globex"):
            await made.fake.followed(f"policy of {tenant}")
        await made.registrations.wait_published()
        told = len(made.fake.calls.of("RegisterService", registry.RegisterServiceRequest))

        made.fake.hang_up()
        await made.fake.calls.number("Watch policy of acme", 2)
        await made.fake.calls.number("Watch policy of globex", 2)
        await made.fake.calls.number("RegisterService", told + 2)
        told_last = made.fake.calls.of("RegisterService", registry.RegisterServiceRequest)[-2:]
        assert sorted(request.service_name for request in told_last) == ["db", "web"]


async def test_a_controller_that_is_upgraded_is_noticed(tmp_path: Path) -> None:
    async with followed(tmp_path) as made:
        await made.relay.agent(AGENT_A)
        await made.loaded("policy of acme", OURS)

        made.fake.plain = False
        made.fake.hang_up()
        await made.seen.wait("the controller is no longer a plain one")
        assert made.allowed()  # by what is known
        await made.loaded("policy", THEIRS)
        assert not made.allowed()
        assert made.allowed("globex")


async def test_a_controller_that_is_downgraded_is_noticed(tmp_path: Path) -> None:
    async with followed(tmp_path, plain=False) as made:
        await made.relay.agent(AGENT_A)
        await made.loaded("policy", OURS, THEIRS)
        await made.fake.tell("directory", ROWS_END)
        await made.seen.wait("directory loaded")

        made.fake.plain = True
        made.fake.hang_up()
        await made.seen.wait("the controller is a plain one: it knows only the common contract")
        assert not made.relay.directory.complete
        await made.fake.calls.number("Watch policy of acme", 1)
        assert made.allowed()  # by what is known, until it has told
        assert not made.knows("globex")  # nobody would tell
        await made.fake.tell("policy of acme", END)
        await made.seen.wait(
            "the controller has no policy rule any more: every new stream is denied",
            follows="policy of acme",
        )
        assert made.knows()
        assert not made.allowed()


async def test_a_directory_that_does_not_begin_with_all_rows_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "ASK_AGAIN", 0.01)
    async with followed(tmp_path, plain=False) as made:
        made.fake.failures["Watch directory"] = grpc.StatusCode.UNIMPLEMENTED
        await made.fake.calls.number("Watch directory", 3)
        assert not made.relay.directory.complete
        del made.fake.failures["Watch directory"]
        await made.fake.tell("directory", ROWS_END)
        await made.seen.wait("directory loaded")
        assert made.relay.directory.complete


async def test_a_relay_of_one_tenant_asks_for_nothing_of_others(tmp_path: Path) -> None:
    async with followed(tmp_path, tenant="acme", plain=False) as made:
        await made.loaded("policy of acme", OURS)
        await made.fake.tell("directory of acme", ROWS_END)
        await made.seen.wait("directory loaded")
        await made.relay.agent(STRANGER)

        assert set(made.fake.metadata) == {"policy of acme", "directory of acme"}
        assert not any("outrelay-all-tenants" in each for each in made.fake.metadata.values())
        assert made.allowed()
        assert not made.knows("globex")

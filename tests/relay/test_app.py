"""The relay as a whole, with a real controller: what it learns, tells, and leaves behind."""

from __future__ import annotations

import asyncio
from asyncio import Task
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from outrelay.lib.control.v1 import audit_pb2, policy_pb2, registry_pb2
from outrelay.lib.errors import ConfigError, ErrorCode, IdentityError, Reset
from outrelay.lib.identity.certs import Credentials
from outrelay.lib.identity.uri import Identity
from outrelay.lib.observe.metrics import RelayMetrics
from outrelay.lib.observe.views import Views
from outrelay.lib.orp.frame import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.tasks import beside
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.transport.memory import EXPIRES, MemoryListener, MemoryNetwork
from outrelay.relay import app, stalls
from outrelay.relay.app import Relay, check, run
from outrelay.relay.audit.disk import Disk, open_disk
from outrelay.relay.controller import Controller
from outrelay.relay.doors import Doors
from outrelay.relay.limits import Limits
from outrelay.relay.options import RelayOptions
from tests.controller.live import LiveController, Stubs, live_controller, policy_rule
from tests.relay.edge.resuming import assert_ended, claim, offer
from tests.relay.fake_controller import fake_controller
from tests.relay.rooms import RELAY
from tests.support.events import Events, events
from tests.support.peers import (
    AGENT_A,
    AGENT_B,
    FEATURES,
    AgentPeer,
    accept,
    read_all,
    rejection,
)
from tests.support.pki import TestPki, save, save_trust
from tests.support.turns import everybody_waits

ANY_PORT = ("127.0.0.1", 0)
NOBODY = "127.0.0.1:1"


def options_for(directory: Path, credentials: Credentials, pki: TestPki) -> RelayOptions:
    """Options of a relay that listens on any port and calls nobody."""
    files = save(credentials, directory / "relay")
    return RelayOptions(
        listen=ANY_PORT,
        controllers=(NOBODY,),
        cert=files.cert,
        key=files.key,
        ca=save_trust(pki.trust, directory / "relay-ca.pem"),
    )


@dataclass(kw_only=True)
class Running:
    """A relay on the in-memory carrier, and who wants to see it stop."""

    network: MemoryNetwork
    listener: MemoryListener
    stop: asyncio.Event
    seen: Events
    task: Task[None]
    views: Views

    async def agent(self, identity: Identity, features: tuple[str, ...] = FEATURES) -> AgentPeer:
        """An agent that has said HELLO."""
        peer = await self.dial(identity)
        await peer.hello(*features)
        return peer

    async def dial(self, identity: Identity) -> AgentPeer:
        """An agent that has said nothing yet."""
        return await AgentPeer.dial(self.network.dialer(identity), self.listener.address, identity)


@asynccontextmanager
async def running(
    options: RelayOptions,
    target: str,
    *,
    pki: TestPki | None = None,
    disk: Disk | None = None,
    limits: Limits | None = None,
) -> AsyncIterator[Running]:
    """A relay that serves; with a PKI it calls the controller over TLS."""
    network = MemoryNetwork()
    listener = network.listen(("127.0.0.1", 0), RELAY)
    stop = asyncio.Event()
    credentials, trust = (pki.relay(), pki.trust) if pki else (None, None)
    with events() as seen:
        async with Controller((target,), credentials=credentials, trust=trust) as controller:
            registry = CollectorRegistry()
            metrics = RelayMetrics.on(registry)
            relay = Relay(options, "r1", controller, metrics, limits, disk=disk)
            async with beside(
                relay.serve(Doors(listener, advertise=options.advertise), stop),
                name="relay under test",
            ) as task:
                await seen.wait("listening")
                yield Running(
                    network=network,
                    listener=listener,
                    stop=stop,
                    seen=seen,
                    task=task,
                    views=relay.views(RELAY, registry, lambda: EXPIRES),
                )
                stop.set()
                await task


@dataclass(kw_only=True)
class World:
    """A relay with a controller, and an operator of the tenant."""

    relay: Running
    controller: LiveController
    operator: Stubs

    async def allow(self, target: str) -> None:
        """Add a rule, and wait until the relay has it."""
        request = policy_pb2.AddPolicyRequest(rule=policy_rule(target_pattern=target))
        added = await self.operator.policy.AddPolicy(request, timeout=5)
        await self.relay.seen.wait("policy rule added", id=added.id)

    async def providers(self, name: str) -> list[registry_pb2.Provider]:
        """Who offers a service, as the controller has it."""
        request = registry_pb2.ResolveRequest(tenant="acme", service_name=name)
        async with self.controller.as_relay("r1") as stubs:
            return list((await stubs.registry.Resolve(request, timeout=5)).providers)

    async def audit(self) -> list[audit_pb2.AuditEvent]:
        """What the controller has stored, oldest first."""
        request = audit_pb2.QueryAuditRequest(tenant="acme")
        return [event async for event in self.operator.audit.Query(request, timeout=5)][::-1]


@asynccontextmanager
async def world(
    directory: Path, *, limits: Limits | None = None, **changes: object
) -> AsyncIterator[World]:
    async with live_controller(directory) as controller, controller.as_operator() as operator:
        options = options_for(directory, controller.pki.relay(), controller.pki)
        changed = replace(options, **changes)  # type: ignore[arg-type]
        target = controller.targets["tls"]
        async with running(changed, target, pki=controller.pki, limits=limits) as relay:
            await relay.seen.wait("ready")
            await relay.seen.wait("heartbeat taken")
            yield World(relay=relay, controller=controller, operator=operator)


@dataclass(kw_only=True)
class Line:
    """A spliced stream."""

    near: Stream
    far: Stream


async def spliced(made: World, features: tuple[str, ...] = FEATURES) -> Line:
    """Agent A calls the service db of agent B."""
    await made.allow("db")
    provider = await made.relay.agent(AGENT_B, features)
    await provider.register("db")
    consumer = await made.relay.agent(AGENT_A, features)
    near = await consumer.open("db", stream_id=7)
    far, _incoming = await provider.incoming()
    await accept(far)
    await consumer.ready()
    return Line(near=near, far=far)


async def test_it_decides_by_the_controllers_policy_and_tells_what_happened(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as made:
        provider = await made.relay.agent(AGENT_B)
        await provider.register("db")
        consumer = await made.relay.agent(AGENT_A)
        assert (await rejection(await consumer.open("db", stream_id=1)))[0] == 403

        await made.allow("db")
        near = await consumer.open("db", stream_id=2)
        far, _incoming = await provider.incoming()
        await accept(far)
        assert (await consumer.ready()).stream_id == 2
        await near.write(b"question")
        near.finish()
        assert await read_all(far) == b"question"
        far.finish()
        await made.relay.seen.wait("stream ended")
        made.relay.stop.set()
        await made.relay.task

        stored = await made.audit()
        assert {(event.event, event.method, event.stream_id[-1:]) for event in stored} == {
            ("", "REGISTER", ""),
            ("reject", "", "1"),
            ("open", "", "2"),
            ("close", "", "2"),
        }
        [close] = [event for event in stored if event.event == "close"]
        assert (close.bytes_up, close.relay_id, close.provider) == (8, "r1", AGENT_B.uri)


async def test_what_its_agents_offer_is_in_the_registry_while_they_do(tmp_path: Path) -> None:
    async with world(tmp_path, region="here") as made:
        provider = await made.relay.agent(AGENT_B)
        await provider.register("db")
        await made.relay.seen.wait("service registered", relay="r1")
        [row] = await made.providers("db")
        assert (row.agent_uri, row.relay_id, row.region) == (AGENT_B.uri, "r1", "here")
        host, port = made.relay.listener.address
        assert row.relay_endpoint == f"{host}:{port}"

        provider.connection.close()
        await made.relay.seen.wait("services deregistered")
        assert await made.providers("db") == []


async def test_without_streams_it_stops_at_once_and_takes_its_rows_along(tmp_path: Path) -> None:
    async with world(tmp_path, drain=3600.0) as made:
        provider = await made.relay.agent(AGENT_B)
        await provider.register("db")
        await made.relay.seen.wait("service registered", relay="r1")
        made.relay.stop.set()
        await made.relay.task

        assert (await provider.connection.wait_closed()).code is ErrorCode.DRAIN
        assert await made.providers("db") == []


async def test_it_waits_for_agents_to_go_elsewhere(tmp_path: Path) -> None:
    limits = Limits(leaving_patience=3600.0)
    async with world(tmp_path, limits=limits, drain=3600.0) as made:
        await made.allow("db")
        provider = await made.relay.agent(AGENT_B)
        await provider.register("db")
        consumer = await made.relay.agent(AGENT_A)
        made.relay.stop.set()
        for agent in (consumer, provider):
            await agent.expect(FrameType.GOAWAY, orp.Goaway)
        near = await consumer.open("db", stream_id=7)  # which it still serves
        far, _incoming = await provider.incoming()
        await accept(far)
        await consumer.ready()
        provider.connection.close()
        await assert_ended(near, ErrorCode.LEG_LOST)
        late = await consumer.open("db", stream_id=8)
        await assert_ended(late, ErrorCode.DRAIN)
        await everybody_waits()
        assert not made.relay.task.done()
        consumer.connection.close()
        await made.relay.task


async def test_running_streams_may_finish_and_nobody_new_is_let_in(tmp_path: Path) -> None:
    async with world(tmp_path, drain=3600.0) as made:
        line = await spliced(made)
        made.relay.stop.set()
        await made.relay.seen.wait("draining")
        late = await made.relay.dial(AGENT_A)
        assert (await late.connection.wait_closed()).code is ErrorCode.DRAIN

        await line.near.write(b"to the end")
        line.near.finish()
        line.far.finish()
        assert await read_all(line.far) == b"to the end"
        await made.relay.task
        assert [event.reason for event in await made.audit() if event.event == "close"] == [
            "finished"
        ]


async def test_a_relay_that_drains_tells_the_controller_at_once(tmp_path: Path) -> None:
    async with fake_controller(tmp_path) as fake:
        pki = TestPki()
        options = replace(options_for(tmp_path, pki.relay(), pki), allow_all=True)
        async with running(options, fake.target) as relay:
            await relay.seen.wait("heartbeat taken")
            relay.stop.set()
            await relay.task
        beats = fake.calls.of("UpsertRelay", registry_pb2.UpsertRelayRequest)
    assert [each.draining for each in beats] == [False, True]


async def test_who_waits_for_the_other_half_of_a_stream_is_sent_elsewhere(tmp_path: Path) -> None:
    async with world(tmp_path, drain=3600.0) as made:
        line = await spliced(made)
        agent = await made.relay.agent(AGENT_A)
        half = await offer(agent, claim(stream_id=8))
        await everybody_waits()
        made.relay.stop.set()
        await agent.expect(FrameType.GOAWAY, orp.Goaway)
        await assert_ended(half, ErrorCode.DRAIN)
        line.near.finish()
        line.far.finish()
        await made.relay.task


@pytest.mark.parametrize(
    ("features", "code", "why"),
    [
        (
            (),
            ErrorCode.DRAIN,
            "(DRAIN), not resumable: no resume/2 at the consumer and the provider",
        ),
        (("resume/2",), ErrorCode.LEG_LOST, "(LEG_LOST)"),
    ],
    ids=["for good", "and may go on"],
)
async def test_after_the_drain_streams_are_cut_off_and_recorded(
    tmp_path: Path, features: tuple[str, ...], code: ErrorCode, why: str
) -> None:
    async with world(tmp_path, drain=0.0) as made:
        line = await spliced(made, features)
        made.relay.stop.set()
        await made.relay.task

        with pytest.raises(Reset) as caught:
            await line.near.read()
        assert caught.value.code is code
        [close] = [event for event in await made.audit() if event.event == "close"]
        assert close.reason == f"this relay is shutting down {why}"


async def test_without_a_controller_it_serves_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "SETTLE", 0.01)
    options = options_for(tmp_path, (pki := TestPki()).relay(), pki)
    async with running(options, NOBODY, limits=Limits(policy_patience=0.0)) as relay:
        provider = await relay.agent(AGENT_B)
        await provider.register("db")
        assert (await rejection(await provider.open("db", stream_id=1)))[0] == 403
        relay.stop.set()
        await relay.task

        [line] = relay.seen.of("the controller was not told everything")
        assert line["audit_events"] == 2  # a registration and a reject
        assert line["agents"] == 1
        assert relay.seen.of("ready") == []


async def test_what_the_registry_still_holds_is_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "SETTLE", 0.1)
    options = options_for(tmp_path, (pki := TestPki()).relay(), pki)
    async with fake_controller(tmp_path) as fake, running(options, fake.target) as relay:
        provider = await relay.agent(AGENT_B)
        await provider.register("db")
        await fake.calls.number("RegisterService", 1)
        fake.failures["DeregisterAgent"] = grpc.StatusCode.UNAVAILABLE
        relay.stop.set()
        await relay.task

        [line] = relay.seen.of("the controller was not told everything")
        assert (line["audit_events"], line["agents"]) == (0, 1)


# ---- ready -------------------------------------------------------------------------------------

RULES_END = policy_pb2.PolicyEvent(kind=policy_pb2.PolicyEvent.POLICY_KIND_SNAPSHOT_END)
ROWS_END = registry_pb2.WatchEvent(kind=registry_pb2.EVENT_KIND_SNAPSHOT_END)


async def test_it_is_ready_once_policy_and_directory_are_loaded(tmp_path: Path) -> None:
    options = options_for(tmp_path, (pki := TestPki()).relay(), pki)
    async with fake_controller(tmp_path) as fake, running(options, fake.target) as relay:
        await fake.tell("policy", RULES_END)
        await relay.seen.wait("policy loaded")
        await everybody_waits()
        assert relay.seen.of("ready") == []
        assert relay.views.unready()
        await fake.tell("directory", ROWS_END)
        await relay.seen.wait("directory loaded")
        await relay.seen.wait("ready")
        assert not relay.views.unready()


@pytest.mark.parametrize("tenant", ["", "acme"])
async def test_a_plain_controller_has_no_directory_to_wait_for(tmp_path: Path, tenant: str) -> None:
    options = options_for(tmp_path, (pki := TestPki()).relay(), pki)
    async with fake_controller(tmp_path) as fake:
        fake.plain = True
        async with running(replace(options, tenant=tenant), fake.target) as relay:
            await relay.seen.wait(
                "the controller is a plain one: it knows only the common contract"
            )
            if tenant:
                await fake.calls.number("Watch policy of acme over", 1)  # the extended way
                assert relay.seen.of("ready") == []
                assert relay.views.unready()
                await fake.tell("policy of acme", RULES_END)
                await relay.seen.wait("policy loaded")
            await relay.seen.wait("ready")
            assert not relay.views.unready()


async def test_while_the_controller_is_away_it_listens_and_says_that_it_denies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "FIRST_SNAPSHOTS", 0.01)
    options = options_for(tmp_path, (pki := TestPki()).relay(), pki)
    limits = Limits(policy_patience=0.0)
    async with running(options, f"unix:{tmp_path}/c.sock", limits=limits) as relay:
        warning = "not ready: every stream is denied until a controller has told the policy"
        line = await relay.seen.wait(warning)
        assert line["level"] == "warning"
        agent = await relay.agent(AGENT_B)
        await agent.register("db")
        code, reason = await rejection(await agent.open("db", stream_id=1))
        assert code == 403
        assert "no controller" in reason

        async with fake_controller(tmp_path) as fake:
            rule = policy_rule(target_pattern="db", id="1")
            added = policy_pb2.PolicyEvent(kind=policy_pb2.PolicyEvent.POLICY_KIND_ADDED, rule=rule)
            await fake.tell("policy", added, RULES_END)
            await fake.tell("directory", ROWS_END)
            await relay.seen.wait("ready")
            await agent.open("db", stream_id=2)
            _far, incoming = await agent.incoming()
            assert incoming.stream_id == 2
            relay.stop.set()
            await relay.task
        assert len(relay.seen.of(warning)) == 1


# ---- what it runs beside -----------------------------------------------------------------------


async def test_it_bounds_streams_that_nobody_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalls, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(stalls, "PATIENCE", 0.0)
    options = options_for(tmp_path, (pki := TestPki()).relay(), pki)
    options, limits = replace(options, allow_all=True), Limits(stalled_bytes=0)
    async with running(options, NOBODY, limits=limits) as relay:
        provider = await relay.agent(AGENT_B)
        await provider.register("db")
        near = await provider.open("db", stream_id=7)
        far, _ = await provider.incoming()
        await accept(far)
        with pytest.raises(Reset) as caught:
            await far.write(bytes(4 << 20))  # which nobody reads
        assert caught.value.code is ErrorCode.LIMIT
        with pytest.raises(Reset):
            await near.wait_finished()


async def test_without_a_controller_a_spool_lets_it_stop_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    options = options_for(tmp_path, (pki := TestPki()).relay(), pki)
    with open_disk(folder, 1 << 20) as disk:
        async with running(options, NOBODY, disk=disk) as relay:
            provider = await relay.agent(AGENT_B)
            await provider.register("db")
            relay.stop.set()
            await relay.task

            [line] = relay.seen.of("audit events wait in the spool")
            assert line["events"] == 1
            assert relay.seen.of("the controller was not told everything") == []
    assert len(list(folder.glob("*.audit"))) == 1


async def test_a_spool_is_one_relays(tmp_path: Path) -> None:
    options = options_for(tmp_path, (pki := TestPki()).relay(), pki)
    options = replace(options, audit_spool=tmp_path / "spool")
    assert list(check(options)) == []
    with open_disk(tmp_path / "spool", 1 << 20):
        with pytest.raises(ConfigError, match="is used by another relay"):
            await run(options, asyncio.Event())
        [fault] = check(options)
        assert "is used by another relay" in fault


async def test_allow_all_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "REMINDER", 0.01)
    options = options_for(tmp_path, (pki := TestPki()).relay(), pki)
    async with running(replace(options, allow_all=True), NOBODY) as relay:
        warning = "--allow-all: every stream is allowed, no policy is asked; never in production"
        line = await relay.seen.wait(warning, count=3)
        assert line["level"] == "warning"


async def test_a_relay_listens_and_stops(tmp_path: Path) -> None:
    options = options_for(tmp_path, (pki := TestPki()).relay(name="r9"), pki)
    stop = asyncio.Event()
    with events() as seen:
        allowing = replace(options, allow_all=True)
        async with beside(run(allowing, stop), name="relay under test") as task:
            listening = await seen.wait("listening")
            ready = await seen.wait("ready")
            stop.set()
            await task

    assert str(listening["address"]).startswith("127.0.0.1:")
    assert listening["address"] != "127.0.0.1:0"
    assert ready["relay_id"] == "r9"
    assert ready["endpoint"] == listening["address"]


async def test_another_roles_certificate_is_a_config_error(tmp_path: Path) -> None:
    options = options_for(tmp_path, (pki := TestPki()).agent(), pki)

    with pytest.raises(IdentityError, match="agent"):
        await run(options, asyncio.Event())


def test_check_names_every_fault(tmp_path: Path) -> None:
    pki = TestPki()
    fine = options_for(tmp_path, pki.relay(), pki)
    assert list(check(fine)) == []

    (tmp_path / "empty.pem").write_bytes(b"")
    broken = replace(fine, ca=tmp_path / "empty.pem", cert=tmp_path / "none.pem")
    faults = list(check(broken))
    assert len(faults) == 2
    assert "none.pem" in faults[0]
    assert "empty.pem" in faults[1]


def test_options_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    fine = options_for(tmp_path, (pki := TestPki()).relay(), pki)

    with pytest.raises(ConfigError, match="--controller"):
        replace(fine, controllers=())
    with pytest.raises(ConfigError, match="--controller: 'nowhere'"):
        replace(fine, controllers=("unix:/run/c.sock", "nowhere"))
    with pytest.raises(ConfigError, match="--tenant"):
        replace(fine, tenant="Not A Tenant")

"""Relay, agents and CLI of ours with a controller of another implementation."""

from __future__ import annotations

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from outrelay.lib.values import Address, address_text
from tests.integration.peers import Backend, answer_to, calling, echo, web_server
from tests.integration.world import (
    ALLOWED,
    ANY_PORT,
    APP,
    GHOST,
    SECRET,
    TENANT,
    World,
    write_pki,
)
from tests.support.patience import PATIENCE
from tests.support.pki import agent_identity
from tests.support.plain_contract import DECISION_ALLOW, DECISION_DENY, make
from tests.support.plain_controller import PlainController
from tests.support.processes import Output, Programs, run

pytestmark = pytest.mark.asyncio(loop_scope="session")

GLOBEX = "globex"
PLAIN = "the controller is a plain one: it knows only the common contract"


@dataclass(kw_only=True)
class Plain:
    """A world whose controller is another implementation's."""

    world: World
    controller: PlainController
    serving: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self) -> str:
        """Start the controller where it was before."""
        return await self.serving.enter_async_context(self.controller.serving())

    async def stop(self) -> None:
        """Stop the controller."""
        await self.serving.aclose()

    async def cli(self, *args: str) -> Output:
        """Run ``outrelay-cli`` for acme."""
        done = await run(
            "outrelay-cli",
            *("--controller", f"127.0.0.1:{self.controller.port}", "--plaintext"),
            *("--tenant", TENANT),
            *args,
        )
        assert done.code == 0, done
        return done

    async def allow(self, target: str) -> str:
        """Add a rule as an operator does; its id."""
        rule = ("--caller", "*", "--target", target, "--decision", "allow")
        return (await self.cli("policy", "add", *rule)).stdout.strip()

    def offered(self) -> set[tuple[str, str]]:
        """Tenant and name of what is registered."""
        return {key[:2] for key in self.controller.services}

    async def until_answered(self, address: Address, answer: bytes) -> None:
        """Call until the answer is this one: a change takes its moment."""
        async with asyncio.timeout(10):
            while await reached(address) != answer:
                pass


async def reached(address: Address) -> bytes:
    """What a call is answered; nothing when it is refused."""
    with suppress(ConnectionError):
        return await answer_to(address, b"ping")
    return b""


async def echo_until_cut(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(ConnectionResetError):
        await echo(reader, writer)


@asynccontextmanager
async def plain_world(directory: Path) -> AsyncIterator[Plain]:
    """A plain controller, and a relay and two agents of acme who work with it."""
    write_pki(directory / "pki")
    async with AsyncExitStack() as stack:
        web = stack.enter_context(web_server())
        backend = await stack.enter_async_context(Backend.start())
        programs = await stack.enter_async_context(Programs())
        world = World(programs=programs, directory=directory, backend=backend, web=web)
        made = Plain(world=world, controller=PlainController())
        await stack.enter_async_context(made.serving)
        target = await made.start()
        await made.allow(ALLOWED)
        world.relay = await programs.start(
            "outrelay-relay",
            *("--listen", ANY_PORT, "--controller", target, "--controller-plaintext"),
            *world.credentials("relay"),
        )
        await world.relay.event(PLAIN)
        await asyncio.gather(world.start_provider(), world.start_consumer())
        await world.relay.event("policy loaded", tenant=TENANT)
        yield made
        await asyncio.gather(*(each.stop() for each in (world.consumer, world.provider)))
        await world.relay.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def plain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plain]:
    async with plain_world(tmp_path_factory.mktemp("plain")) as made:
        yield made


async def test_a_call_goes_through_and_is_recorded(plain: Plain) -> None:
    world = plain.world
    await plain.controller.until(lambda: (TENANT, APP) in plain.offered())
    async with world.backend.serving(echo):
        assert await answer_to(world.at[APP], b"ping") == b"ping"
    await plain.controller.until(
        lambda: sum(event.target == APP for event in plain.controller.events) >= 3
    )
    events = [event for event in plain.controller.events if event.target == APP]
    assert [event.method for event in events if not event.stream_id] == ["REGISTER"]
    opened, closed = (event for event in events if event.stream_id)
    assert opened.stream_id == closed.stream_id
    assert {opened.decision, closed.decision} == {DECISION_ALLOW}
    assert opened.caller.startswith(f"outrelay://{TENANT}/agent/")

    listed = await plain.cli("audit", "query", "--target", APP, "--output", "json")
    assert opened.stream_id in {
        json.loads(line).get("stream_id") for line in listed.stdout.splitlines()
    }


async def test_a_refused_call_is_recorded_too(plain: Plain) -> None:
    assert await reached(plain.world.at[SECRET]) == b""
    await plain.controller.until(
        lambda: any(
            (event.target, event.decision) == (SECRET, DECISION_DENY)
            for event in plain.controller.events
        )
    )


async def test_a_changed_rule_counts_for_new_and_for_running_streams(plain: Plain) -> None:
    world = plain.world
    async with world.backend.serving(echo_until_cut):
        assert await reached(world.at[SECRET]) == b""
        rule_id = await plain.allow(SECRET)
        await plain.until_answered(world.at[SECRET], b"ping")
        async with calling(world.at[SECRET]) as (cut, out), calling(world.at[APP]) as (kept, on):
            for reader, writer in ((cut, out), (kept, on)):
                writer.write(b"ping")
                assert await reader.readexactly(4) == b"ping"
            assert rule_id in (await plain.cli("policy", "list")).stdout
            await plain.cli("policy", "remove", "--id", rule_id)
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(ConnectionResetError):
                    await cut.read()
            on.write(b"pong")
            assert await kept.readexactly(4) == b"pong"
        assert await reached(world.at[SECRET]) == b""


async def test_who_offers_a_service_elsewhere_is_asked_once_in_a_while(plain: Plain) -> None:
    world, controller = plain.world, plain.controller
    asked = len(controller.called("Registry/Resolve"))
    mark = world.consumer.mark()
    assert await reached(world.at[GHOST]) == await reached(world.at[GHOST]) == b""
    await world.consumer.event("open refused", since=mark, code=404)
    assert len(controller.called("Registry/Resolve")) == asked + 1

    agent = agent_identity(TENANT).uri
    far = make(
        "RegisterServiceRequest",
        tenant=TENANT,
        service_name=GHOST,
        agent_uri=agent,
        relay_id="r9",
    )
    controller._register_service(far)
    try:
        async with asyncio.timeout(10):
            while not world.consumer.seen("open refused", since=mark, code=502):
                await reached(world.at[GHOST])
        [line, *_] = world.consumer.seen("open refused", since=mark, code=502)
        assert "r9" in str(line["reason"])
    finally:
        del controller.services[TENANT, GHOST, agent]


async def test_each_tenant_has_a_watch_and_its_own_rules(plain: Plain) -> None:
    world, controller = plain.world, plain.controller
    assert controller.watched == [TENANT]
    for number, name in ((1, "globex-a"), (2, "globex-b")):
        world.issue(agent_identity(GLOBEX, f"00000000-0000-4000-8000-{number:012}"), name=name)
    consumer = await world.start_agent("globex-a", f"--consume={APP}@{ANY_PORT}")
    at = await consumer.listening(service=APP)
    async with Backend.start() as backend:
        provider = await world.start_agent(
            "globex-b", f"--expose={APP}={address_text(backend.address)}"
        )
        await controller.until(lambda: (GLOBEX, APP) in plain.offered())
        await controller.until(lambda: sorted(controller.watched) == [TENANT, GLOBEX])
        assert await reached(at) == b""  # what acme may, globex may not

        rule = make(
            "PolicyRule",
            tenant=GLOBEX,
            caller_pattern="*",
            target_pattern=APP,
            decision=DECISION_ALLOW,
        )
        controller._add_policy(make("AddPolicyRequest", rule=rule))
        async with backend.serving(echo):
            await plain.until_answered(at, b"ping")
        assert backend.calls == 1
        await asyncio.gather(consumer.stop(), provider.stop())
    await controller.until(lambda: (GLOBEX, APP) not in plain.offered())


async def test_it_may_be_restarted_and_have_lost_its_registry(plain: Plain) -> None:
    world, controller = plain.world, plain.controller
    async with world.backend.serving(echo):
        await plain.stop()
        assert await reached(world.at[APP]) == b"ping"  # from what the relay knows
        before, was_offered = len(controller.events), plain.offered()
        controller.forget()
        await plain.start()
        await controller.until(lambda: plain.offered() == was_offered)
        await controller.until(lambda: "r1" in controller.relays)
        await controller.until(lambda: len(controller.events) > before)  # recorded meanwhile
        rule_id = await plain.allow(SECRET)
        await plain.until_answered(world.at[SECRET], b"ping")
        await plain.cli("policy", "remove", "--id", rule_id)
        await plain.until_answered(world.at[SECRET], b"")

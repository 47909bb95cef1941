"""Two tenants at one relay and one controller: neither can tell that there is another.

*acme* is the world's tenant, *globex* the other one; both offer services of the same names,
with backends of their own. What globex asks about something that only acme has is answered
exactly as if nobody had it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from outrelay.lib.errors import Closed, Refused
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.values import Address, address_text
from tests.integration.attackers import Mallories
from tests.integration.peers import Backend, Handler, answer_to, echo
from tests.integration.world import ALLOWED, ANY_PORT, APP, SECRET, TENANT, World
from tests.support.patience import PATIENCE
from tests.support.peers import FEATURES, AgentPeer, accept, read_all, rejection
from tests.support.pki import agent_identity
from tests.support.processes import Output, Program

pytestmark = pytest.mark.asyncio(loop_scope="session")

GLOBEX = "globex"
OPERATOR = "globex-operator"

REFUSED, NOT_FOUND = 4, 3
"""Exit codes of ``outrelay-cli``."""


@dataclass(kw_only=True)
class Neighbours:
    """A world with a second tenant in it."""

    world: World
    backend: Backend
    app: Address
    """Where globex's applications reach their APP."""
    secret: Address
    """Where they reach their SECRET, which no rule of theirs allows."""

    def agent(self, tenant: str) -> AbstractAsyncContextManager[AgentPeer]:
        """An agent of a tenant that says what the test says."""
        return Mallories(self.world, tenant=tenant).mallory(*FEATURES)

    async def ask(self, *args: str) -> Output:
        """What ``outrelay-cli`` says to globex's operator."""
        return await self.world.cli(*args, holder=OPERATOR)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def neighbours(modules_world: World) -> AsyncIterator[Neighbours]:
    """The world, and globex in it."""
    world = modules_world
    async with Backend.start() as backend:
        operator = Identity(realm=GLOBEX, role=Role.OPERATOR, name="admin")
        world.issue(operator, name=OPERATOR)
        await world.allow(ALLOWED, holder=OPERATOR)
        for name in ("globex-a", "globex-b"):
            world.issue(agent_identity(GLOBEX), name=name)
        target = address_text(backend.address)
        expose = [f"--expose={name}={target}" for name in (APP, SECRET)]
        consume = [f"--consume={name}@{ANY_PORT}" for name in (APP, SECRET)]
        provider = await world.start_agent("globex-b", *expose)
        consumer = await world.start_agent("globex-a", *consume)
        await asyncio.gather(provider.event("ready"), consumer.event("ready"))
        app, secret = [await consumer.listening(service=name) for name in (APP, SECRET)]
        yield Neighbours(world=world, backend=backend, app=app, secret=secret)
        await asyncio.gather(provider.stop(), consumer.stop())


def saying(words: bytes) -> Handler:
    """A backend that says the same to everybody."""

    async def answer(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.read()
        writer.write(words)

    return answer


@asynccontextmanager
async def both_serving(neighbours: Neighbours) -> AsyncIterator[None]:
    """Both backends serve, each with its tenant's name."""
    async with (
        neighbours.world.backend.serving(saying(TENANT.encode())),
        neighbours.backend.serving(saying(GLOBEX.encode())),
    ):
        yield


# ---- opening -------------------------------------------------------------------------------


async def test_services_of_one_name_do_not_meet(neighbours: Neighbours) -> None:
    async with both_serving(neighbours):
        for _ in range(5):  # in turn, were they providers of one service
            answers = [await answer_to(at) for at in (neighbours.world.at[APP], neighbours.app)]
            assert answers == [TENANT.encode(), GLOBEX.encode()]


async def test_a_rule_speaks_of_its_own_tenant(neighbours: Neighbours) -> None:
    world = neighbours.world
    rule = await world.allow(SECRET)
    async with both_serving(neighbours):
        async with asyncio.timeout(PATIENCE):
            while await _answer(world.at[SECRET]) != TENANT.encode():
                pass
        assert await _answer(neighbours.secret) == b""
    await world.cli("policy", "remove", "--id", rule)


async def _answer(address: Address) -> bytes:
    try:
        return await answer_to(address)
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    ("service", "code"),
    [pytest.param("shop-late", 404, id="allowed"), pytest.param("late", 403, id="denied")],
)
async def test_what_only_another_tenant_has_is_as_what_nobody_has(
    neighbours: Neighbours, service: str, code: int
) -> None:
    world = neighbours.world
    rule = await world.allow(service)
    async with neighbours.agent(GLOBEX) as stranger, neighbours.agent(TENANT) as owner:
        nowhere = await _refusal(stranger, service, stream_id=1)
        await owner.register(service)
        stream = await owner.open(service, stream_id=2)
        served, _ = await owner.incoming()
        await accept(served)
        await owner.ready()
        assert await _refusal(stranger, service, stream_id=2) == nowhere
        assert (await rejection(await stranger.open(service, stream_id=3)))[0] == code
        stream.finish()
    await world.cli("policy", "remove", "--id", rule)


async def _refusal(agent: AgentPeer, service: str, *, stream_id: int) -> bytes:
    """All that the relay says to a stream it refuses."""
    return await read_all(await agent.open(service, stream_id=stream_id))


async def test_stream_ids_do_not_meet(neighbours: Neighbours) -> None:
    async with (
        neighbours.world.backend.serving(echo),
        neighbours.backend.serving(echo),
        neighbours.agent(TENANT) as acme,
        neighbours.agent(TENANT) as other,
        neighbours.agent(GLOBEX) as globex,
    ):
        streams = [await each.open(APP, stream_id=7) for each in (acme, globex)]
        for agent, stream in zip((acme, globex), streams, strict=True):
            assert (await agent.ready()).stream_id == 7
            await stream.write(agent.identity.realm.encode())
        code, reason = await rejection(await other.open(APP, stream_id=7))
        assert (code, reason) == (409, "stream id already in use")
        for agent, stream in zip((acme, globex), streams, strict=True):
            stream.finish()
            assert (await read_all(stream)).decode() == agent.identity.realm


# ---- asking the controller -----------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "policy list",
        "policy add --caller * --target shop-app --decision allow",
        "policy remove --id 1",
        "policy explain --caller x --target shop-app",
        "audit query",
        "audit tail",
        "fleet streams",
        "stream kill 0000000000000007",
    ],
)
async def test_nothing_is_told_to_an_operator_of_another_tenant(
    neighbours: Neighbours, command: str
) -> None:
    done, absent = await asyncio.gather(
        *(neighbours.ask(*command.split(), "--tenant", each) for each in (TENANT, "umbrella"))
    )
    assert done.code == REFUSED, done
    assert not done.stdout
    assert done.stderr.replace(TENANT, "umbrella") == absent.stderr


async def test_a_rule_set_of_another_tenant_is_not_replaced(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    listed = await neighbours.ask("policy", "list", "--output", "yaml")
    rules.write_text(listed.stdout.replace(GLOBEX, TENANT))
    done = await neighbours.ask("policy", "apply", "-f", str(rules), "--yes", "--tenant", TENANT)
    assert done.code == REFUSED, done


async def test_rules_are_listed_and_removed_by_their_own_tenant_only(
    neighbours: Neighbours,
) -> None:
    async def ids(holder: str) -> set[str]:
        done = await neighbours.world.cli("policy", "list", "--output", "json", holder=holder)
        return {str(json.loads(line)["id"]) for line in done.stdout.splitlines()}

    ours, theirs = await ids("operator"), await ids(OPERATOR)
    assert ours
    assert theirs
    assert not ours & theirs
    rule = min(ours)
    done, absent = await asyncio.gather(
        *(neighbours.ask("policy", "remove", "--id", each) for each in (rule, "nobodys"))
    )
    assert done.code == absent.code == NOT_FOUND
    assert done.stderr.replace(rule, "nobodys") == absent.stderr
    assert await ids("operator") == ours


async def test_streams_are_listed_and_ended_by_their_own_tenant_only(
    neighbours: Neighbours,
) -> None:
    world = neighbours.world
    async with (
        world.backend.serving(echo),
        neighbours.backend.serving(echo),
        neighbours.agent(TENANT) as acme,
        neighbours.agent(GLOBEX) as globex,
    ):
        ours = await _opened(acme, stream_id=0xACE)
        theirs = await _opened(globex, stream_id=0x610)
        listed = await neighbours.ask("fleet", "streams", "--output", "json")
        (stream,) = [json.loads(line) for line in listed.stdout.splitlines()]
        assert stream["stream_id"] == f"{0x610:016x}"
        assert TENANT not in listed.stdout
        done = await neighbours.ask("stream", "kill", f"{0xACE:016x}")
        absent = await neighbours.ask("stream", "kill", f"{0xBAD:016x}")
        assert done.code == absent.code == NOT_FOUND
        assert done.stderr.replace("ace", "bad") == absent.stderr
        for stream in (ours, theirs):
            stream.finish()
            assert await read_all(stream) == b"hello"


async def _opened(agent: AgentPeer, *, stream_id: int) -> Stream:
    """A stream to the tenant's APP that runs."""
    stream = await agent.open(APP, stream_id=stream_id)
    await agent.ready()
    await stream.write(b"hello")
    return stream


async def test_the_audit_trail_has_only_ones_own(neighbours: Neighbours) -> None:
    """What is stored, and what a follower is told, also while others are busy."""
    tail = await _follow(neighbours.world, OPERATOR)
    async with both_serving(neighbours):
        assert await answer_to(neighbours.world.at[APP])
        await _until_stored(neighbours.world, TENANT, "operator")
        mark = tail.mark()
        assert await answer_to(neighbours.app)
        await tail.event("close", since=mark)
    assert {event["tenant"] for event in tail.events} == {GLOBEX}
    assert not [line for line in tail.lines if f"/{TENANT}/" in line]
    await tail.stop()
    stored = await neighbours.ask("audit", "query", "--limit", "0", "--output", "json")
    events = [json.loads(line) for line in stored.stdout.splitlines()]
    assert {event["tenant"] for event in events} == {GLOBEX}
    assert f"/{TENANT}/" not in stored.stdout


async def _follow(world: World, holder: str) -> Program:
    """``audit tail``; its events are a program's log lines."""
    script = shutil.which("outrelay-cli", path=str(Path(sys.executable).parent))
    assert script
    return await world.programs.start(
        shutil.which("sh") or "/bin/sh",
        *("-c", 'exec "$@" >&2', "sh", script, "audit", "tail", "--output", "json"),
        *("--controller", await world.controller_address()),
        *world.credentials(holder),
        json_log=False,
    )


async def _until_stored(world: World, tenant: str, holder: str) -> None:
    """Wait until a stream's end is in the trail."""
    async with asyncio.timeout(10):
        while True:
            done = await world.cli("audit", "query", "--output", "json", holder=holder)
            events = [json.loads(line) for line in done.stdout.splitlines()]
            if any(event.get("event") == "close" for event in events):
                assert {event["tenant"] for event in events} == {tenant}
                return


# ---- a relay of one tenant -----------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def acmes_relay(neighbours: Neighbours) -> AsyncIterator[Program]:
    """A second relay, for acme alone."""
    relay = await neighbours.world.start_other_relay("acmes", "--tenant", TENANT)
    yield relay
    await relay.stop()


async def test_a_relay_of_one_tenant_serves_it(
    neighbours: Neighbours, acmes_relay: Program
) -> None:
    async with Mallories(neighbours.world, relay=acmes_relay).mallory(*FEATURES) as agent:
        await agent.register("shop-only")
        await agent.open("shop-only", stream_id=1)
        _, incoming = await agent.incoming()
        assert incoming.target_service == "shop-only"


async def test_a_relay_of_one_tenant_has_no_connections_of_others(
    neighbours: Neighbours, acmes_relay: Program
) -> None:
    world = neighbours.world
    strangers = Mallories(world, tenant=GLOBEX, relay=acmes_relay)
    credentials = strangers.credentials()
    with pytest.raises((Refused, Closed), match="another tenant"):  # at once, or a moment later
        async with strangers.silent(credentials) as stranger:
            await stranger.hello(*FEATURES)
    await acmes_relay.event("connection refused", peer=credentials.identity.uri)
    consume = f"--consume={APP}@{ANY_PORT}"
    agent = await world.start_agent("globex-a", consume, relay=acmes_relay)
    assert await agent.ended() == 1
    assert "another tenant" in agent.lines[-1]

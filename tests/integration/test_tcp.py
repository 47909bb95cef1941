"""What only tcp has: falling back to it, proxies, and its own strangers at the door."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from outrelay.lib.values import Address, address_text, parse_address
from tests.integration.attackers import unnoticed, until_times
from tests.integration.peers import answer_to, echo, unused_port
from tests.integration.world import ANY_PORT, APP, TENANT, World
from tests.support.http_proxy import HttpProxy
from tests.support.pki import agent_identity
from tests.support.processes import Program, run

pytestmark = pytest.mark.asyncio(loop_scope="session")
CARRIERS = ("tcp",)

NAME = "relay.test:443"
"""Where nobody but the proxy finds the relay."""


async def works(world: World, agent: Program) -> None:
    """A call through a consumer's agent is answered."""
    await agent.event("ready")
    at = await agent.listening(service=APP)
    async with world.backend.serving(echo):
        assert await answer_to(at, b"through?") == b"through?"


@asynccontextmanager
async def consumer(
    world: World, *flags: str | Path, env: dict[str, str] | None = None
) -> AsyncIterator[Program]:
    """An agent that consumes APP, told nothing of where relays are."""
    identity = agent_identity(TENANT)
    world.issue(identity, name=identity.name)
    agent = await world.programs.start(
        "outrelay-agent",
        *world.credentials(identity.name),
        f"--consume={APP}@{ANY_PORT}",
        *flags,
        env=env,
    )
    yield agent
    await agent.stop()


async def test_where_udp_leads_nowhere_tcp_is_used_and_remembered(
    world: World, tmp_path: Path
) -> None:
    nowhere = ("--relay", address_text(unused_port()))
    ways = (*nowhere, "--relay-tcp", await world.door(), "--state-dir", tmp_path / "state")
    for _ in range(2):
        async with consumer(world, *ways) as agent:
            await agent.event("connected", carrier="tcp")
            await works(world, agent)
        kept = json.loads((tmp_path / "state" / "ways.json").read_text())
        [way] = kept["networks"].values()
        assert way == {"carrier": "tcp", "address": await world.door()}


async def test_quic_is_preferred_where_it_gets_through(world: World) -> None:
    ways = ("--relay", await world.relay_address(), "--relay-tcp", await world.door())
    async with consumer(world, *ways) as agent:
        await agent.event("connected", carrier="quic")
        await works(world, agent)


# --- proxies -------------------------------------------------------------------------------


async def proxy_to(world: World) -> dict[str, Address]:
    return {NAME: parse_address(await world.door())}


async def test_through_a_proxy_that_wants_a_password(world: World) -> None:
    basic = "Basic YW5uOnMzY3JldA=="  # ann:s3cret
    async with HttpProxy(authorization=basic, names=await proxy_to(world)) as proxy:
        url = f"http://ann:s3cret@{address_text(proxy.address)}"
        async with consumer(world, "--relay-tcp", NAME, "--http-proxy", url) as agent:
            await works(world, agent)
        assert set(proxy.asked) == {NAME}
        assert not [line for line in agent.lines if "s3cret" in line]


async def test_through_the_proxy_of_the_environment(world: World) -> None:
    async with HttpProxy(names=await proxy_to(world)) as proxy:
        env = {"HTTPS_PROXY": f"http://{address_text(proxy.address)}", "NO_PROXY": "other.test"}
        env |= {"https_proxy": "", "no_proxy": ""}
        async with consumer(world, "--relay-tcp", NAME, env=env) as agent:
            await works(world, agent)
        assert proxy.asked


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        (HttpProxy(authorization="Basic ?"), "it wants a user and a password in its URL (407"),
        (HttpProxy(refuses="403 Forbidden"), f"it does not allow connections to {NAME} (403"),
    ],
    ids=["407", "403"],
)
async def test_a_proxy_that_leads_nowhere_is_told_of(
    world: World, proxy: HttpProxy, words: str
) -> None:
    async with proxy:
        url = address_text(proxy.address)
        async with consumer(world, "--relay-tcp", NAME, "--http-proxy", url) as agent:
            line = await agent.event("no relay connected")
            assert f"{NAME} through the proxy {url}: the proxy: {words}" in str(line["error"])


# --- the doctor ----------------------------------------------------------------------------


async def test_what_is_no_relay_is_told_of(world: World) -> None:
    told = {
        address_text(world.web): ("no TLS 1.3 handshake", "check that a relay runs there"),
        await world.controller_address(): (
            "the other side does not speak orp/1 (ALPN)",
            "check that a relay listens there",
        ),
    }
    for address, words in told.items():
        ways = ("doctor", "--relay-tcp", address, *world.credentials("agent-a"))
        done = await run("outrelay-agent", *ways)
        assert done.code == 1
        for each in words:
            assert each in done.stdout


# --- strangers -----------------------------------------------------------------------------


@contextmanager
def crowd(target: Address, number: int, source: str) -> Iterator[list[socket.socket]]:
    """So many connections from one address."""
    with ExitStack() as stack:
        made = []
        for _ in range(number):
            sock = stack.enter_context(socket.socket())
            sock.bind((source, 0))
            sock.connect(target)
            made.append(sock)
        yield made


async def test_strangers_at_the_door_are_turned_away_unnoticed(world: World) -> None:
    """Silent ones, talkative ones, and more of both than one place may send."""
    target, mark, chance = parse_address(await world.door()), world.relay.mark(), random.Random(1)
    said = (b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n", b"SSH-2.0-x\r\n", chance.randbytes(900))
    async with unnoticed(world) as somebody:
        with ExitStack() as stack:
            for host in range(10, 20):
                for sock in stack.enter_context(crowd(target, 40, f"127.0.0.{host}")):
                    if chance.random() < 0.75:
                        sock.sendall(chance.choice(said))
            with crowd(target, 200, "127.0.0.20"):  # more than one source may begin
                await until_times(
                    world.relay, 100, "handshake refused", mark, reason="source limit"
                )
            await somebody.go_on(20)
            await until_times(world.relay, 200, "handshake refused", mark)
    assert len(world.relay.seen("handshake refused", since=mark)) < 40  # lines, not strangers


async def test_handshakes_begun_and_left_are_forgotten(world: World) -> None:
    target, mark = parse_address(await world.door()), world.relay.mark()
    async with unnoticed(world) as somebody:
        for _ in range(10):
            with crowd(target, 60, "127.0.0.30"):
                await somebody.go_on(1)
        await somebody.go_on(5)
    assert not world.relay.seen("task failed", since=mark)

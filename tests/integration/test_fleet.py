"""Who is connected where, and the drain of a relay, as operators see and do it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import termios
from asyncio import StreamReader
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from outrelay.lib.identity.certs import load_credentials
from outrelay.lib.identity.uri import Identity, Role
from tests.integration.peers import calling, echo, ping
from tests.integration.world import APP, SECRET, TENANT, World
from tests.support.patience import PATIENCE
from tests.support.processes import script_path

pytestmark = pytest.mark.asyncio(loop_scope="session")

CARRIERS = ("tcp-quic",)

ROOT = "root"
"""An operator of all tenants."""

Document = dict[str, Any]


def root_of(world: World) -> str:
    """The holder of an operator's certificate for all tenants."""
    identity = Identity(realm="system", role=Role.OPERATOR, name=ROOT)
    world.issue(identity, name=ROOT)
    return ROOT


async def records(world: World, *args: str, holder: str = "operator") -> list[Document]:
    done = await world.cli("fleet", *args, "--output", "json", holder=holder)
    assert (done.code, done.stderr) == (0, ""), done
    return [json.loads(line) for line in done.stdout.splitlines()]


def identity_of(world: World, holder: str) -> Identity:
    """Who a holder of dev-pki is."""
    return load_credentials(world.pki / f"{holder}.pem", world.pki / f"{holder}.key").identity


async def test_relays_and_agents_and_services_are_told(world: World) -> None:
    (relay,) = await records(world, "relays")
    assert (relay["id"], relay["endpoint"]) == ("r1", await world.relay_address())
    assert relay["attached_unix_ms"] > 0
    assert relay["certificate_not_after_unix_ms"] > relay["started_unix_ms"] > 0

    async with world.backend.serving(echo), calling(world.at[APP]) as call:
        await ping(*call)
        agents = {each["agent_uri"]: each for each in await records(world, "agents")}
        (stream,) = await records(world, "streams")
    consumer = agents[identity_of(world, "agent-a").uri]
    provider = agents[identity_of(world, "agent-b").uri]
    assert (consumer["consuming"], consumer["serving"]) == (1, 0)
    assert (provider["consuming"], provider["serving"]) == (0, 1)
    assert consumer["carrier"] == world.carriers.consumer
    assert provider["carrier"] == world.carriers.provider
    assert APP in provider["services"]
    assert consumer["since_unix_ms"] > 0
    assert stream["path"] == "relayed"

    services = {each["service"]: each for each in await records(world, "services")}
    assert services[APP]["agent_uri"] == provider["agent_uri"]
    assert services[SECRET]["state"] == "live"


async def test_tables_are_for_people(world: World) -> None:
    done = await world.cli("fleet", "agents")
    assert done.stdout.split()[:3] == ["AGENT", "RELAY", "CARRIER"]
    assert identity_of(world, "agent-b").uri in done.stdout
    stranger = Identity(realm="globex", role=Role.OPERATOR, name="eve")
    world.issue(stranger, name="eve")
    assert await records(world, "agents", holder="eve") == []
    assert await records(world, "relays", holder="eve") == []
    refused = await world.cli("fleet", "agents", "--tenant", TENANT, holder="eve")
    assert refused.code == 4


async def test_a_relay_that_is_told_to_drain_leaves_when_it_is_empty(own_world: World) -> None:
    world = own_world
    refused = await world.cli("fleet", "drain", "r1", "--yes")
    assert refused.code == 4
    assert world.relay.running
    async with world.backend.serving(echo), calling(world.at[APP]) as call:
        await ping(*call)
        drained = await world.cli(
            "fleet", "drain", "r1", "--yes", "--reason", "new kernel", holder=root_of(world)
        )
        assert drained.stdout == "r1 drains: it carries 1 stream, for 10 s at most\n", drained
        told = await world.relay.event("told to drain")
        assert str(told["by"]).endswith(f"operator/{ROOT}: new kernel")
        # Whoever sends the signal besides has not asked for the second time.
        world.relay.send_signal(signal.SIGTERM)
        await world.relay.event("stopping")
        await ping(*call)
    assert await world.relay.ended() == 0
    assert world.relay.seen("stopping at once") == []


# ---- fleet watch -----------------------------------------------------------------------------


@asynccontextmanager
async def watching(world: World) -> AsyncIterator[Callable[..., Any]]:
    """``fleet watch`` with lines of JSON; gives what waits for one of which something holds."""
    process = await asyncio.create_subprocess_exec(
        script_path("outrelay-cli"),
        *("--controller", await world.controller_address()),
        *map(str, world.credentials("operator")),
        *("fleet", "watch", "--output", "json", "--interval", "100ms"),
        stdin=DEVNULL,
        stdout=PIPE,
        limit=1 << 20,
    )
    assert process.stdout

    async def until(holds: Callable[[Document], bool]) -> Document:
        async with asyncio.timeout(PATIENCE):
            while line := await process.stdout.readline():  # type: ignore[union-attr]
                document: Document = json.loads(line)
                if holds(document):
                    return document
        raise AssertionError("it ended")

    try:
        yield until
    finally:
        await interrupted(process)


async def interrupted(process: Process) -> None:
    """Ctrl-C ends it."""
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(PATIENCE):
        await process.communicate()
        assert process.returncode == 128 + signal.SIGINT


async def test_watch_goes_on_when_the_controller_is_back(own_world: World) -> None:
    world = own_world
    address = await world.controller_address()
    async with (
        world.backend.serving(echo),
        calling(world.at[APP]) as call,
        watching(world) as until,
    ):
        await ping(*call)
        first = await until(lambda document: bool(document["streams"]))
        assert first["away"] is None
        assert [each["id"] for each in first["relays"]] == ["r1"]
        rated = await until(lambda document: document["streams"][0]["rate_up"] is not None)
        assert len(rated["agents"]) == 2

        await world.controller.stop()
        away = await until(lambda document: bool(document["away"]))
        assert away["away_since_unix_ms"] > first["ts_unix_ms"]
        await world.start_controller(address)
        back = await until(
            lambda document: document["away"] is None and len(document["agents"]) == 2
        )
        assert back["relays"][0]["attached_unix_ms"] > away["away_since_unix_ms"]


async def test_watch_is_a_screen_at_a_terminal_and_q_ends_it(world: World) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(theirs)
    process = await asyncio.create_subprocess_exec(
        script_path("outrelay-cli"),
        *("--controller", await world.controller_address()),
        *map(str, world.credentials("operator")),
        *("fleet", "watch"),
        stdin=theirs,
        stdout=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
    )
    try:
        async with terminal(ours) as screen, asyncio.timeout(PATIENCE):
            shown = await screen.readuntil(b"q quits")
            rest = await screen.readuntil(b"STREAM ")
            assert b"OutRelay" in shown
            assert b"r1" in rest
            name = identity_of(world, "agent-b").name.partition("-")[0]
            assert name.encode() in rest
            os.write(ours, b"q")
            assert await process.wait() == 0
            assert termios.tcgetattr(theirs) == before
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(theirs)


@asynccontextmanager
async def terminal(ours: int) -> AsyncIterator[StreamReader]:
    """What is written to a terminal whose other end this is; it is closed at the end."""
    loop, reader = asyncio.get_running_loop(), StreamReader()
    file = os.fdopen(ours, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    try:
        yield reader
    finally:
        transport.close()

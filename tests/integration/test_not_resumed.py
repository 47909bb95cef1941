"""What streams do not outlive: each time both applications get a reset, never a clean end, and
both agents' logs and the audit trail say what it was.

Programs here wait seconds for what they would wait minutes for. That the far agent was restarted
its peer cannot tell from its not coming: the relay can, and the trail says so.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from outrelay.lib.errors import Why
from outrelay.lib.identity.certs import load_credentials
from outrelay.lib.values import address_text
from outrelay.tools.bench import without_resume
from tests.integration.carriers import ON_BOTH_ENGINES
from tests.integration.peers import calling
from tests.integration.world import ANY_PORT, APP, CONSUMER, QUIC, Carriers, World, outrelay_world
from tests.support.impair import UdpProxy
from tests.support.patience import PATIENCE
from tests.support.plain import REGISTER, PlainRelay
from tests.support.processes import Program
from tests.support.tcp_path import TcpPath

pytestmark = pytest.mark.asyncio(loop_scope="session")
CARRIERS = ON_BOTH_ENGINES

IMPATIENT = ("--dead-after", "2s", "--drain", "1s")
NO_RULES = "{tenant: acme, rules: []}"


def waiting(
    directory: Path, deadline: str, carriers: Carriers
) -> AbstractAsyncContextManager[World]:
    """A world whose streams may be without a connection for so long."""
    flags = (*IMPATIENT, "--resume-deadline", deadline)
    return outrelay_world(directory, "--resume-window", "1s", agent_flags=flags, carriers=carriers)


@pytest_asyncio.fixture(loop_scope="session")
async def world(tmp_path: Path, carriers: Carriers) -> AsyncIterator[World]:
    """One in which programs are started anew before that is over."""
    async with waiting(tmp_path, "10s", carriers) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="session")
async def patient_world(tmp_path: Path, carriers: Carriers) -> AsyncIterator[World]:
    """One in which no stream ends for waiting."""
    async with waiting(tmp_path, "120s", carriers) as world:
        yield world


# ---- what applications see -------------------------------------------------------------------


@asynccontextmanager
async def reset_at_both_ends(world: World) -> AsyncIterator[str]:
    """A stream in use, by its id; after the body both of its applications get a reset."""
    over = asyncio.Event()

    async def backend(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(await reader.readexactly(1))
        try:
            await assert_reset(reader)
        finally:
            over.set()

    mark = world.consumer.mark()
    async with world.backend.serving(backend), calling(world.at[APP]) as (reader, writer):
        writer.write(b"?")
        assert await reader.readexactly(1) == b"?"
        opened = await world.consumer.event("stream opened", since=mark)
        yield str(opened["stream_id"])
        await assert_reset(reader)
        await over.wait()


async def assert_reset(reader: StreamReader) -> None:
    """Fail unless the connection is reset, with nothing before that."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionResetError):
            assert await reader.read() == b"", "more than was sent"
            raise AssertionError("a clean end")


# ---- what people read ------------------------------------------------------------------------


async def why(agent: Program, stream_id: str) -> str:
    """What the agent's log says of the end of a stream."""
    return str((await agent.event("stream ended", stream_id=stream_id))["why"])


async def audited(world: World, stream_id: str, event: str, reason: str) -> None:
    """Return once the trail has an event of the stream with this in its reason."""
    query = ("audit", "query", "--stream-id", stream_id, "--output", "json")
    async with asyncio.timeout(PATIENCE):
        while True:
            done = await world.cli(*query)
            assert done.code == 0, done
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            if any(line["event"] == event and reason in line["reason"] for line in lines):
                return


# ---- the reasons -----------------------------------------------------------------------------


async def test_no_relay_is_back_within_the_deadline(tmp_path: Path, carriers: Carriers) -> None:
    async with waiting(tmp_path, "2s", carriers) as world:
        async with reset_at_both_ends(world) as stream_id:
            await world.relay.stop(signal.SIGKILL)
        assert await why(world.consumer, stream_id) == Why.WINDOW
        assert await why(world.provider, stream_id) == Why.WINDOW


@pytest.mark.soak
async def test_the_far_agent_is_not_back_within_the_deadline(world: World) -> None:
    async with reset_at_both_ends(world) as stream_id:
        world.provider.send_signal(signal.SIGSTOP)
        await world.relay.stop(signal.SIGKILL)
        await world.restart_relay()
        assert await why(world.consumer, stream_id) == Why.WINDOW
        world.provider.send_signal(signal.SIGCONT)
    assert await why(world.provider, stream_id) == Why.WINDOW
    await audited(world, stream_id, "reject", "did not come within 1 s: its agent is not connected")


@pytest.mark.soak
async def test_a_peer_without_resume(world: World) -> None:
    path = TcpPath if world.carriers.consumer == "tcp" else UdpProxy
    async with path(await world.relay.listening(carrier=world.carriers.consumer)) as way:
        await world.consumer.stop()
        world.consumer = await world.programs.start(
            without_resume.__file__,
            *(*IMPATIENT, *world.credentials(CONSUMER)),
            f"--relay{'-tcp' if path is TcpPath else ''}={address_text(way.address)}",
            f"--consume={APP}@{ANY_PORT}",
            within=(sys.executable, "-P"),
        )
        await world.consumer.event("ready")
        world.at[APP] = await world.consumer.listening(service=APP)
        async with reset_at_both_ends(world) as stream_id:
            way.sever()
        await world.consumer.stop()
    assert await why(world.provider, stream_id) == Why.PEER
    assert await why(world.consumer, stream_id) == Why.RELAY  # it has agreed on nothing with that
    await audited(world, stream_id, "close", "not resumable: no resume/2 at the consumer")


@pytest.mark.soak
async def test_a_relay_without_resume(tmp_path: Path) -> None:
    async with waiting(tmp_path, "120s", QUIC) as world, reset_at_both_ends(world) as stream_id:
        address = await world.relay.listening(carrier="quic")
        await world.relay.stop(signal.SIGKILL)
        credentials = load_credentials(world.pki / "relay.pem", world.pki / "relay.key")
        async with PlainRelay.at(address, credentials, world.trust) as relay:
            assert await why(world.consumer, stream_id) == Why.RELAY
            assert await why(world.provider, stream_id) == Why.RELAY
            await relay.until_heard(REGISTER)


@pytest.mark.soak
async def test_policy_denies_by_now(patient_world: World) -> None:
    world = patient_world
    async with reset_at_both_ends(world) as stream_id:
        await world.relay.stop(signal.SIGKILL)
        rules = world.directory / "rules.yaml"
        await asyncio.to_thread(rules.write_text, NO_RULES)
        done = await world.cli("policy", "apply", "-f", str(rules), "--yes")
        assert done.code == 0, done
        await world.restart_relay()
    assert await why(world.consumer, stream_id) == Why.POLICY
    assert await why(world.provider, stream_id) == Why.POLICY
    await audited(world, stream_id, "reject", "403")


@pytest.mark.soak
@pytest.mark.parametrize("side", ["provider", "consumer"])
async def test_an_agent_was_restarted(world: World, side: str) -> None:
    agents = {"provider": world.provider, "consumer": world.consumer}
    start = {"provider": world.start_provider, "consumer": world.start_consumer}
    async with reset_at_both_ends(world) as stream_id:
        await agents.pop(side).stop(signal.SIGKILL)
        await start[side]()
    (survivor,) = agents.values()
    assert await why(survivor, stream_id) == Why.WINDOW
    await audited(world, stream_id, "reject", "was restarted or has ended the stream")


@pytest.mark.soak
async def test_an_agent_was_stopped(world: World) -> None:
    async with reset_at_both_ends(world) as stream_id:
        assert await world.provider.stop() == 0
    assert await why(world.provider, stream_id) == Why.STOPPED
    assert await why(world.consumer, stream_id) == Why.STOPPED
    await audited(world, stream_id, "close", "DRAIN")

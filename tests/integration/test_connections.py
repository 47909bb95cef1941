"""Connections of one identity beside each other, in each other's place, and at their end."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from outrelay.agent import hints
from outrelay.lib.errors import ErrorCode
from outrelay.lib.values import address_text
from tests.integration.attackers import Mallories
from tests.integration.carriers import ON_BOTH_ENGINES
from tests.integration.peers import calling, echo_until_cut, ping
from tests.integration.world import ANY_PORT, APP, World
from tests.support.peers import FEATURES, AgentPeer, accept, read_all
from tests.support.pki import agent_identity
from tests.support.processes import Program

pytestmark = pytest.mark.asyncio(loop_scope="session")
CARRIERS = ON_BOTH_ENGINES

OPENED = "stream opened"

ONE, OTHER = b"1" * 16, b"2" * 16
"""What processes call themselves."""


# ---- replicas that share a certificate -----------------------------------------------------


async def test_replicas_that_share_a_certificate_both_serve(own_world: World) -> None:
    """What is new goes to the newest; nothing of one ends for the other's sake."""
    world = own_world
    first = world.provider
    async with world.backend.serving(echo_until_cut), AsyncExitStack() as calls:
        old = await calls.enter_async_context(calling(world.at[APP]))
        await ping(*old)
        second = await _replica(world)
        new = await calls.enter_async_context(calling(world.at[APP]))
        await ping(*new)
        for each in (first, second):
            await each.event(OPENED)
            assert len(each.seen(OPENED)) == 1
        mark = first.mark()
        await ping(*old)
        assert await second.stop() == 0  # it lets its stream finish first, or its time run out
        async with calling(world.at[APP]) as call:
            await ping(*call)
        await ping(*old)
    await first.event(OPENED, since=mark)
    assert len(first.seen(OPENED)) == 2
    assert first.running
    assert not first.seen("disconnected")


async def _replica(world: World) -> Program:
    """Another process with the provider's certificate, and its service."""
    expose = f"--expose={APP}={address_text(world.backend.address)}"
    replica = await world.start_agent("agent-b", expose, "--drain", "100ms")
    await replica.event("ready")
    return replica


async def test_a_process_that_connects_again_takes_its_own_place(world: World) -> None:
    """And what it offered, and nobody else's: not another process's, nor a nameless one's."""
    mallories = Mallories(world)
    credentials = mallories.credentials()
    async with AsyncExitStack() as stack:

        async def connected(instance: bytes) -> AgentPeer:
            mallory = mallories.mallory(*FEATURES, credentials=credentials, instance=instance)
            return await stack.enter_async_context(mallory)

        others = [await connected(instance) for instance in (OTHER, b"", b"")]
        old = await connected(ONE)
        await old.register("shop-once")
        new = await connected(ONE)
        ended = await old.connection.wait_closed()
        assert (ended.code, ended.by_peer) == (ErrorCode.REPLACED, True)
        stream = await others[0].open("shop-once", stream_id=1)
        served, _ = await new.incoming()
        await accept(served)
        await asyncio.gather(others[0].ready(), new.ready())
        stream.finish()
        assert await read_all(served) == b""
        for each in (*others, new):
            await each.ping()
        served.finish()


# ---- the certificate's end -----------------------------------------------------------------


async def test_the_certificates_end_is_the_connections(world: World) -> None:
    """Its streams are reset, it does not come back, and a person is told what to do."""
    world.issue(agent_identity(), lifetime=timedelta(seconds=4), name="brief")
    agent = await world.start_agent("brief", f"--consume={APP}@{ANY_PORT}")
    await agent.event("ready")
    async with (
        world.backend.serving(echo_until_cut),
        calling(await agent.listening()) as (reader, writer),
    ):
        await ping(reader, writer)
        with pytest.raises(ConnectionResetError):
            await reader.read()
    await agent.event("refused by the relay", hint=hints.FOR_EXPIRED)
    assert agent.running  # it may be the relay's clock that is wrong
    assert await agent.stop() == 0

"""Every program stops when it is asked to, within its bound, and says it went well."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.integration.carriers import ON_BOTH_ENGINES
from tests.integration.peers import calling, echo
from tests.integration.world import APP, World

pytestmark = pytest.mark.asyncio(loop_scope="session")
CARRIERS = ON_BOTH_ENGINES

AT_REST = 5.0
"""Seconds for a program that carries nothing."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_every_program_stops(own_world: World, number: signal.Signals) -> None:
    for program in (own_world.consumer, own_world.provider, own_world.relay, own_world.controller):
        assert await program.stop(number, timeout=AT_REST) == 0, program.tail()
        await program.event("stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_every_program_stops_when_the_others_run(
    own_world: World, number: signal.Signals
) -> None:
    programs = (own_world.controller, own_world.relay, own_world.provider, own_world.consumer)
    for program in programs:
        assert await program.stop(number, timeout=AT_REST) == 0, program.tail()


async def test_an_agent_lets_running_streams_finish(own_world: World) -> None:
    async with own_world.backend.serving(echo), calling(own_world.at[APP]) as (reader, writer):
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        for agent in (own_world.consumer, own_world.provider):
            agent.send_signal(signal.SIGTERM)
            await agent.event("draining")
        writer.write(b"after")
        assert await reader.readexactly(5) == b"after"
        writer.write_eof()
        assert await reader.read() == b""
    for agent in (own_world.consumer, own_world.provider):
        assert await agent.ended(timeout=AT_REST) == 0


async def test_an_agent_waits_no_longer_than_told(own_world: World) -> None:
    await own_world.consumer.stop()
    await own_world.start_consumer("--drain", "500ms")
    async with (
        own_world.backend.serving(_until_reset),
        calling(own_world.at[APP]) as (reader, writer),
    ):
        writer.write(b"?")
        assert await reader.readexactly(1) == b"?"
        assert await own_world.consumer.stop(timeout=AT_REST) == 0
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def _until_reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readexactly(1))
    with pytest.raises(ConnectionResetError):
        await reader.read()

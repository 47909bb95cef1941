"""``outrelay-agent status`` beside agents that run."""

from __future__ import annotations

import asyncio
import json

import pytest

from outrelay.lib.values import address_text
from tests.integration.peers import calling, echo, ping, unused_port
from tests.integration.world import APP, World
from tests.support.patience import PATIENCE
from tests.support.processes import Output, Program, run

pytestmark = pytest.mark.asyncio(loop_scope="session")

CARRIERS = ("tcp-quic",)


async def status(agent: Program, *flags: str) -> Output:
    where = address_text(await agent.listening(service="debug"))
    return await run("outrelay-agent", "status", "--debug-listen", where, *flags)


async def test_an_agent_that_works(world: World) -> None:
    async with world.backend.serving(echo), calling(world.at[APP]) as call:
        await ping(*call)
        done = await status(world.consumer)
        told = json.loads((await status(world.provider, "--output", "json")).stdout)
    assert (done.code, done.stderr) == (0, "")
    assert ": connected\n" in done.stdout
    assert "1 stream; " in done.stdout
    assert f"{APP}" in done.stdout

    (session,) = told["sessions"]
    assert (session["relay"], session["carrier"]) == ("outrelay://local/relay/r1", "quic")
    assert session["engine"] == told["quic_engine"] == world.carriers.engine
    assert {each["registered"] for each in told["exposed"]} == {True}
    assert (told["connected"], told["streams"]) == (True, 1)


async def test_an_agent_that_has_lost_its_relay(own_world: World) -> None:
    await own_world.relay.stop()
    async with asyncio.timeout(PATIENCE):
        while (done := await status(own_world.consumer)).code == 0:
            pass  # it has not heard of it yet
    assert done.code == 1
    first, second, *_ = done.stdout.splitlines()
    assert first.endswith(": NOT CONNECTED")
    assert second.startswith("not ready: no relay is connected")


async def test_no_agent_at_all() -> None:
    where = address_text(unused_port())
    done = await run("outrelay-agent", "status", "--debug-listen", where)
    assert (done.code, done.stdout) == (5, "")
    assert done.stderr.startswith(f"outrelay-agent: {where}: nobody answers there")
    assert len(done.stderr.splitlines()) == 1

"""What goes on when a part of OutRelay is gone, and that all is well when it is back."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.integration.peers import answer_to, calling, echo
from tests.integration.world import APP, World
from tests.support.patience import PATIENCE

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_streams_are_opened_while_the_controller_is_gone(own_world: World) -> None:
    await own_world.controller.stop(signal.SIGKILL)
    async with own_world.backend.serving(echo):
        for _ in range(3):
            assert await answer_to(own_world.at[APP], b"still there?") == b"still there?"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_streams_are_opened_after_a_relay_restarts(
    own_world: World, number: signal.Signals
) -> None:
    await own_world.relay.stop(number)
    await own_world.restart_relay()
    async with own_world.backend.serving(echo), asyncio.timeout(PATIENCE):
        while await _answer(own_world) != b"back?":
            pass


async def test_a_stream_whose_relay_dies_is_reset(own_world: World) -> None:
    async with (
        own_world.backend.serving(_first_byte_only),
        calling(own_world.at[APP]) as (reader, writer),
    ):
        writer.write(b"?")
        assert await reader.readexactly(1) == b"?"
        assert await own_world.relay.stop(signal.SIGKILL) < 0
        await own_world.restart_relay()
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def _first_byte_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readexactly(1))
    with pytest.raises(ConnectionResetError):
        await reader.read()


async def _answer(world: World) -> bytes:
    try:
        return await answer_to(world.at[APP], b"back?")
    except ConnectionError:
        return b""

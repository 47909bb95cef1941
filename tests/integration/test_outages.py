"""What goes on when a part of OutRelay is gone, and that all is well when it is back."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.integration.carriers import ON_BOTH_ENGINES
from tests.integration.peers import answer_to, echo
from tests.integration.world import APP, World
from tests.support.patience import PATIENCE

pytestmark = pytest.mark.asyncio(loop_scope="session")
CARRIERS = ON_BOTH_ENGINES


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


async def _answer(world: World) -> bytes:
    try:
        return await answer_to(world.at[APP], b"back?")
    except ConnectionError:
        return b""

"""The fleet again and again, with a controller that goes and comes back."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from outrelay.cli.session import Session
from outrelay.cli.watch.follow import frames
from outrelay.lib.errors import ControlError
from tests.controller.fleet.scripted import agent, attached, stream
from tests.controller.live import LiveController, live_controller, relay_beat
from tests.support.plain_controller import PlainController


def session(controller: str, tenant: str = "acme") -> Session:
    return Session(
        controller=controller, tenant=tenant, credentials=None, trust=None, output="table"
    )


async def test_it_goes_on_when_the_controller_is_back(tmp_path: Path) -> None:
    async with AsyncExitStack() as first:
        controller = await first.enter_async_context(live_controller(tmp_path))
        async with aclosing(frames(session(controller.targets["admin"]), 0.01)) as followed:
            before = await anext(followed)
            assert (before.away, before.away_ms, before.sample.streams) == ("", 0, [])
            await first.aclose()
            async for frame in followed:
                if frame.away:
                    break
            assert "socket" in frame.away
            since = frame.away_ms
            assert frame.sample.taken_ms < since
            assert (await anext(followed)).away_ms == since
            async with live_controller(tmp_path):
                async for frame in followed:
                    if not frame.away:
                        break
                assert frame.away_ms == frame.sample.taken_ms
                assert frame.lasted == (frame.away_ms - since) / 1000
                assert (await anext(followed)).away_ms == frame.away_ms


async def test_it_tells_what_passes_between_two_looks(controller: LiveController) -> None:
    async with controller.as_relay("r1") as stubs, attached(stubs, "r1") as relay:
        await stubs.registry.UpsertRelay(relay_beat("r1"))
        relay.agents, relay.streams = [agent()], [stream(1)]
        async with aclosing(frames(session(controller.targets["admin"]), 0.01)) as followed:
            first = await anext(followed)
            assert first.rates.streams == {}
            assert [each.id for each in first.sample.relays] == ["r1"]
            assert len(first.sample.agents) == 1
            relay.streams = [stream(1, bytes_up=1000)]
            second = await anext(followed)
            assert second.rates.streams[("acme", f"{1:016x}")].up > 0


async def test_one_that_is_not_there_at_first_is_an_error(tmp_path: Path) -> None:
    nobody = session(f"unix:{tmp_path / 'none.sock'}")
    with pytest.raises(ControlError, match="cannot be opened"):
        await anext(frames(nobody, 0.01))


async def test_a_plain_one_cannot_be_watched() -> None:
    async with PlainController().serving() as target:
        with pytest.raises(ControlError, match="does not know this call"):
            await anext(frames(session(target), 0.01))

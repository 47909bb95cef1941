"""When something better is tried: after doubling waits, and in another network."""

from __future__ import annotations

import pytest

from outrelay.agent.session import climb
from outrelay.lib.errors import Refused
from tests.support.virtual_loop import elapsed


class Tries:
    """An attempt that succeeds the last time."""

    def __init__(self, count: int) -> None:
        self.left = count

    async def __call__(self) -> str:
        self.left -= 1
        if self.left:
            raise Refused("relay:7443", "no answer")
        return "made"


async def test_it_is_tried_again_after_doubling_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def no_change(_: str, limit: float, __: object) -> bool:
        waits.append(limit)
        return False

    monkeypatch.setattr(climb, "_changes", no_change)
    assert await climb.reach(Tries(7), network=lambda: "home") == "made"
    assert waits == [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0]


async def test_another_network_is_a_new_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[tuple[str, float]] = []

    async def one_change(here: str, limit: float, __: object) -> bool:
        waits.append((here, limit))
        return len(waits) == 3

    networks = iter(["home", "office"])
    monkeypatch.setattr(climb, "_changes", one_change)
    await climb.reach(Tries(4), network=lambda: next(networks))
    assert waits == [("home", 30.0), ("home", 60.0), ("home", 120.0), ("office", 30.0)]


async def test_a_change_is_noticed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(climb, "LOOK", 0.001)
    seen = iter(["home", "", "home", "office"])
    assert await climb._changes("home", 3600, lambda: next(seen))


@pytest.mark.virtual_time
async def test_a_change_is_noticed_within_five_seconds() -> None:
    assert await climb._changes("home", 600, lambda: "office" if elapsed() > 101 else "home")
    assert elapsed() == 105.0


async def test_without_a_change_the_wait_is_as_long_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(climb, "LOOK", 0.001)
    assert not await climb._changes("home", 0.01, lambda: "home")

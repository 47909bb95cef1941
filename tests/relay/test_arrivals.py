"""Services that are expected: for how long, and who is told when they come."""

from __future__ import annotations

import asyncio

import pytest

from outrelay.relay import arrivals
from outrelay.relay.arrivals import Arrivals
from tests.support.turns import everybody_waits


class Clock:
    """A clock that somebody moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_service_is_expected_for_a_while() -> None:
    clock = Clock()
    known = Arrivals(30.0, clock)
    assert not known.expects("acme/db")
    known.expect("acme/db")
    clock.now += 30.0
    assert known.expects("acme/db")
    assert not known.expects("globex/db")
    clock.now += 0.1
    assert not known.expects("acme/db")


def test_one_that_has_come_is_no_longer_expected() -> None:
    known = Arrivals(30.0, Clock())
    known.expect("acme/db")
    known.come("acme/db")
    assert not known.expects("acme/db")


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "REMEMBERED", 2)
    clock = Clock()
    known = Arrivals(30.0, clock)
    for name in ("one", "two", "one", "three"):
        clock.now += 1
        known.expect(name)
    assert [known.expects(name) for name in ("one", "two", "three")] == [True, False, True]
    clock.now += 29.5
    known.expect("four")  # which has those forgotten that are over
    assert len(known) == 2


async def test_all_who_wait_are_told() -> None:
    known = Arrivals(30.0, Clock())
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(known.wait("acme/db")) for _ in range(3)]
        other = group.create_task(known.wait("acme/vault"))
        await everybody_waits()
        waiting[0].cancel()
        await everybody_waits()
        known.come("acme/db")
        await asyncio.wait(waiting)
        assert not other.done()
        other.cancel()
    known.come("acme/db")  # nobody waits any more


async def test_who_gives_up_at_the_moment_of_the_arrival_is_no_trouble() -> None:
    known = Arrivals(30.0, Clock())
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(known.wait("acme/db"))
        await everybody_waits()
        waiting.cancel()
        known.come("acme/db")

"""One timer for deadlines that come and go."""

from __future__ import annotations

import asyncio
import gc
import weakref

from outrelay.lib.alarm import Alarm


class Sleeper:
    """Somebody who is woken."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.alarm = Alarm()
        self.rung: list[float] = []
        self.woken = asyncio.Event()

    def wake(self) -> None:
        self.rung.append(self.loop.time())
        self.woken.set()


async def test_it_rings_once_and_never_before_its_time() -> None:
    sleeper, later = Sleeper(), Sleeper()
    at = sleeper.loop.time() + 0.002

    sleeper.alarm.set(at, sleeper.wake)
    later.alarm.set(at + 0.01, later.wake)
    await later.woken.wait()

    (rung,) = sleeper.rung
    assert rung >= at


async def test_the_earliest_moment_counts() -> None:
    sleeper = Sleeper()
    now = sleeper.loop.time()

    for seconds in (3600, 0.002, 1800):
        sleeper.alarm.set(now + seconds, sleeper.wake)
    sleeper.alarm.set(None, sleeper.wake)
    await sleeper.woken.wait()

    assert len(sleeper.rung) == 1


async def test_it_can_be_set_again() -> None:
    sleeper = Sleeper()

    for _ in range(2):
        sleeper.alarm.set(sleeper.loop.time(), sleeper.wake)
        await sleeper.woken.wait()
        sleeper.woken.clear()
    sleeper.alarm.set(sleeper.loop.time() + 3600, sleeper.wake)
    sleeper.alarm.cancel()
    sleeper.alarm.cancel()
    sleeper.alarm.set(sleeper.loop.time(), sleeper.wake)
    await sleeper.woken.wait()

    assert len(sleeper.rung) == 3


async def test_what_is_cancelled_does_not_ring() -> None:
    sleeper, other = Sleeper(), Sleeper()
    now = sleeper.loop.time()

    sleeper.alarm.set(now, sleeper.wake)
    sleeper.alarm.cancel()
    other.alarm.set(now, other.wake)
    await other.woken.wait()

    assert not sleeper.rung


async def test_no_circle_is_left_when_it_has_rung() -> None:
    sleeper = Sleeper()
    sleeper.alarm.set(sleeper.loop.time(), sleeper.wake)
    await sleeper.woken.wait()
    gone = weakref.ref(sleeper)
    gc.disable()
    try:
        del sleeper
        assert gone() is None
    finally:
        gc.enable()

"""Virtual time: exact, quick, in order, and no place for tests that hang."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.virtual_loop import VirtualLoop, elapsed


@pytest.mark.virtual_time
async def test_hours_pass_in_an_instant_and_in_order() -> None:
    seen: list[tuple[str, float]] = []

    async def note(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((name, elapsed()))

    async with asyncio.TaskGroup() as group:
        for name, seconds in (("day", 86_400.0), ("hour", 3_600.0), ("soon", 0.25)):
            group.create_task(note(name, seconds))

    assert seen == [("soon", 0.25), ("hour", 3_600.0), ("day", 86_400.0)]


@pytest.mark.virtual_time
async def test_timeouts_are_exact() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await asyncio.Event().wait()

    assert elapsed() == 10.0


@pytest.mark.virtual_time
async def test_work_takes_no_time() -> None:
    for _ in range(1000):
        await asyncio.sleep(0)

    assert elapsed() == 0.0


def test_who_waits_for_what_never_comes_fails_at_once() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with (
        asyncio.Runner(loop_factory=VirtualLoop) as runner,
        pytest.raises(AssertionError, match="nothing will ever happen"),
    ):
        runner.run(wait())


def test_timers_that_fire_for_ever_are_no_reason_to_wait_for_ever() -> None:
    async def wait() -> None:
        loop = asyncio.get_running_loop()

        def tick() -> None:
            loop.call_later(100, tick)

        tick()
        await asyncio.Event().wait()

    with (
        asyncio.Runner(loop_factory=VirtualLoop) as runner,
        pytest.raises(AssertionError, match="nothing else happens"),
    ):
        runner.run(wait())

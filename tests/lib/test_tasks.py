"""Task helpers: who ends whom, and that nobody outlives the owner."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from outrelay.lib.tasks import beside, isolate, spawn, until

pytestmark = pytest.mark.both_loops


class Boom(Exception):
    """A failure."""


async def fail() -> None:
    raise Boom


async def forever(seen: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        seen.append("cancelled")


async def test_a_spawned_task_has_a_name_and_a_result() -> None:
    async def work() -> int:
        task = asyncio.current_task()
        assert task is not None
        assert task.get_name() == "relay: work"
        return 7

    async with asyncio.TaskGroup() as group:
        task = spawn(group, work(), name="relay: work")

    assert task.result() == 7


async def test_what_a_spawned_task_raises_ends_its_siblings() -> None:
    seen: list[str] = []

    with pytest.raises(ExceptionGroup) as errors:
        async with asyncio.TaskGroup() as group:
            spawn(group, forever(seen), name="sibling")
            spawn(group, fail(), name="failing")

    assert errors.group_contains(Boom)
    assert seen == ["cancelled"]


async def test_what_an_isolated_task_raises_is_logged_and_ends_nobody_else() -> None:
    async def survive() -> str:
        await failing
        return "alive"

    with capture_logs() as lines:
        async with asyncio.TaskGroup() as group:
            failing = isolate(group, fail(), name="failing")
            sibling = spawn(group, survive(), name="sibling")

    assert sibling.result() == "alive"
    assert lines == [
        {"event": "task failed", "task": "failing", "log_level": "error", "exc_info": True}
    ]


async def test_an_isolated_task_is_cancelled_with_its_group() -> None:
    seen: list[str] = []

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            isolate(group, forever(seen), name="isolated")
            spawn(group, fail(), name="failing")

    assert seen == ["cancelled"]


async def test_work_beside_a_body_ends_with_it() -> None:
    seen: list[str] = []

    async with beside(forever(seen), name="beside") as task:
        await asyncio.sleep(0)
        assert not task.done()

    assert seen == ["cancelled"]


async def test_work_beside_a_body_that_fails_ends_the_body() -> None:
    seen: list[str] = []

    with pytest.raises(ExceptionGroup) as errors:
        async with beside(fail(), name="beside"):
            await forever(seen)

    assert errors.group_contains(Boom)
    assert seen == ["cancelled"]


async def test_a_body_that_fails_ends_the_work_beside_it() -> None:
    seen: list[str] = []

    with pytest.raises(ExceptionGroup) as errors:
        async with beside(forever(seen), name="beside"):
            await asyncio.sleep(0)
            await fail()

    assert errors.group_contains(Boom)
    assert seen == ["cancelled"]


async def test_until_cancels_when_asked_to_stop() -> None:
    stop, seen = asyncio.Event(), list[str]()
    asyncio.get_running_loop().call_soon(stop.set)

    await until(stop, forever(seen), name="work")

    assert seen == ["cancelled"]


async def test_until_returns_when_the_work_does() -> None:
    stop = asyncio.Event()

    await until(stop, asyncio.sleep(0), name="work")

    assert not stop.is_set()


async def test_until_raises_what_the_work_raised() -> None:
    with pytest.raises(Boom):
        await until(asyncio.Event(), fail(), name="work")


async def test_until_passes_a_cancellation_on() -> None:
    seen: list[str] = []

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await until(asyncio.Event(), forever(seen), name="work")

    assert seen == ["cancelled"]

"""What waits is taken in its order, by one task, until nothing more will come."""

from __future__ import annotations

import asyncio

import pytest

from outrelay.lib.errors import Closed, LocalProtocolError
from outrelay.lib.transport.waiting import Waiting, wake
from tests.lib.transport.streams import cancel, closing


async def test_what_came_first_is_taken_first() -> None:
    waiting = Waiting[int]("numbers", 3)
    async with asyncio.TaskGroup() as group:
        taking = group.create_task(waiting.take(), name="take")
        await asyncio.sleep(0)
        for number in (1, 2, 3):
            waiting.put(number)
    assert [taking.result(), await waiting.take(), await waiting.take()] == [1, 2, 3]
    assert len(waiting) == 0


async def test_so_much_may_wait_and_no_more() -> None:
    waiting = Waiting[int]("numbers", 2)
    full = []
    for number in range(2):
        full.append(waiting.full)
        waiting.put(number)
    full.append(waiting.full)
    await waiting.take()
    assert [*full, waiting.full] == [False, False, True, False]


async def test_one_task_takes_at_a_time() -> None:
    waiting = Waiting[int]("numbers", 1)
    async with asyncio.TaskGroup() as group:
        taking = group.create_task(waiting.take(), name="take")
        await asyncio.sleep(0)
        with pytest.raises(LocalProtocolError, match="another task is accepting numbers"):
            await waiting.take()
        await cancel(taking)
    waiting.put(1)
    assert await waiting.take() == 1


async def test_the_end_is_told_to_all_and_what_waited_is_gone() -> None:
    waiting, closed = Waiting[int]("numbers", 1), Closed(reason="over")
    waiting.put(1)
    waiting.end(closed)
    assert await closing(waiting.take()) is closed
    assert not waiting

    waiting = Waiting[int]("numbers", 1)
    async with asyncio.TaskGroup() as group:
        taking = group.create_task(closing(waiting.take()), name="take")
        await asyncio.sleep(0)
        waiting.end(closed)
    assert taking.result() is closed


async def test_waking_twice_and_waking_nobody_does_nothing() -> None:
    waiter = asyncio.get_running_loop().create_future()
    wake(None)
    wake(waiter)
    wake(waiter)
    await waiter

"""Feeds: order, filters, and that a watcher who falls behind loses its stream, not an event."""

from __future__ import annotations

import asyncio

import pytest

from outrelay.controller.feed import QUEUE_LIMIT, Feed, Mark
from outrelay.lib.errors import ControlError
from outrelay.lib.tasks import spawn


def everything(_change: int) -> bool:
    return True


async def test_watchers_get_what_they_want_in_order() -> None:
    feed = Feed[int]()
    with feed.subscribe(everything) as all_of_it, feed.subscribe(lambda n: n % 2 == 0) as even:
        for number in range(5):
            feed.publish(number)
        assert [await anext(all_of_it) for _ in range(5)] == [0, 1, 2, 3, 4]
        assert [await anext(even) for _ in range(3)] == [0, 2, 4]


async def test_a_watcher_that_waits_is_woken() -> None:
    feed = Feed[int]()
    with feed.subscribe(everything) as changes:
        async with asyncio.TaskGroup() as group:
            waiting = spawn(group, anext(changes), name="watcher")
            await asyncio.sleep(0)
            feed.publish(7)
        assert waiting.result() == 7


async def test_the_queue_holds_its_limit_and_no_more() -> None:
    feed = Feed[int]()
    with feed.subscribe(everything) as slow, feed.subscribe(everything) as other:
        for number in range(QUEUE_LIMIT):
            feed.publish(number)
        assert await anext(other) == 0
        feed.publish(QUEUE_LIMIT)
        with pytest.raises(ControlError) as raised:
            await anext(slow)
        assert raised.value.status == "RESOURCE_EXHAUSTED"
        assert [await anext(other) for _ in range(QUEUE_LIMIT)] == list(range(1, QUEUE_LIMIT + 1))


async def test_nothing_is_queued_for_a_watcher_that_lost_its_stream_or_left() -> None:
    feed = Feed[int](limit=1)
    with feed.subscribe(everything) as changes:
        for number in range(5):
            feed.publish(number)
        assert not changes._changes
    assert not feed._subscriptions


async def test_closing_ends_every_watch_now_and_later() -> None:
    feed = Feed[int]()
    with feed.subscribe(everything) as before:
        feed.publish(1)
        feed.close()
        with feed.subscribe(everything) as after:
            for changes in (before, after):
                with pytest.raises(ControlError) as raised:
                    await anext(changes)
                assert raised.value.status == "UNAVAILABLE"


class TestMark:
    async def test_who_waits_hears_of_the_newest(self) -> None:
        mark = Mark()
        async with asyncio.TaskGroup() as group:
            behind = spawn(group, mark.beyond(0), name="behind")
            ahead = spawn(group, mark.beyond(2), name="ahead")
            await asyncio.sleep(0)
            mark.publish(1)
            mark.publish(2)
            await asyncio.sleep(0)
            assert behind.result() == 2
            await asyncio.sleep(0)
            assert not ahead.done()
            mark.publish(5)
        assert ahead.result() == 5

    async def test_who_is_behind_does_not_wait(self) -> None:
        mark = Mark()
        mark.publish(7)
        assert await mark.beyond(6) == 7

    async def test_a_closed_one_ends_every_wait(self) -> None:
        mark = Mark()
        mark.publish(7)
        async with asyncio.TaskGroup() as group:
            waiting = spawn(group, _status_of(mark, 7), name="waits")
            await asyncio.sleep(0)
            mark.close()
        assert waiting.result() == await _status_of(mark, 0) == "UNAVAILABLE"


async def _status_of(mark: Mark, number: int) -> str:
    with pytest.raises(ControlError) as caught:
        await mark.beyond(number)
    return caught.value.status

"""Feeds: order, filters, and that a watcher who falls behind loses its stream, not an event."""

from __future__ import annotations

import asyncio

import pytest

from outrelay.controller.feed import QUEUE_LIMIT, Feed
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

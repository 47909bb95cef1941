"""What is shown: tasks and where they wait, pages of streams, who this is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from prometheus_client import CollectorRegistry

from outrelay.lib import tasks
from outrelay.lib.observe import logs
from outrelay.lib.observe.metrics import StreamMetrics
from outrelay.lib.observe.views import (
    NoStreams,
    Views,
    carried_bytes,
    page_of,
    status_of,
    tasks_of_loop,
)
from outrelay.lib.tasks import beside, until


async def test_a_task_is_where_our_innermost_line_is() -> None:
    stop = asyncio.Event()

    async with beside(until(stop, asyncio.sleep(60), name="sleep"), name="outer"):
        await asyncio.sleep(0)
        shown = tasks_of_loop()
        assert isinstance(shown["tasks"], list)
        places = {each["name"]: each["where"] for each in shown["tasks"]}

    assert places["outer"].startswith(f"{tasks.__name__}:")
    assert places["sleep"].startswith("asyncio.tasks:")
    assert places["sleep: stop"].startswith(f"{tasks.__name__}:")


async def test_tasks_of_one_name_at_one_place_are_counted() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    async with beside(wait(), name="same"), beside(wait(), name="same"):
        await asyncio.sleep(0)
        shown = tasks_of_loop()

    assert isinstance(shown["tasks"], list)
    (same,) = [each for each in shown["tasks"] if each["name"] == "same"]
    assert same["count"] == 2
    assert shown["total"] == len(shown["tasks"]) + 1


async def test_a_task_in_a_generator_has_a_place() -> None:
    async def numbers() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 1

    async def consume() -> None:
        async for _ in numbers():
            pass

    async with beside(consume(), name="consumer"):
        await asyncio.sleep(0)
        shown = tasks_of_loop()

    assert isinstance(shown["tasks"], list)
    assert [each["where"] for each in shown["tasks"] if each["name"] == "consumer"] != [""]


def test_who_carries_no_streams_has_an_empty_page() -> None:
    assert page_of(NoStreams(), limit=1, after="") == {"streams": [], "next": None}


def test_a_status_says_what_holds_for_every_service() -> None:
    logs.configure("controller", level="warning")
    views = Views(component="controller", registry=CollectorRegistry())

    status = status_of(views)

    assert status["identity"] is None
    assert status["certificate_not_after_unix_ms"] is None
    assert (status["pid"], status["ready"], status["log_level"]) == (os.getpid(), True, "warning")
    assert 0 < views.started_ms <= int(str(status["ts_unix_ms"]))


def test_bytes_of_all_paths_are_one_sum() -> None:
    registry = CollectorRegistry()
    metrics = StreamMetrics(registry)
    metrics.bytes_up.inc(3)
    metrics.bytes_down.inc(5)

    assert carried_bytes(registry) == {"bytes_up": 3, "bytes_down": 5}

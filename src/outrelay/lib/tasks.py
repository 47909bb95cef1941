"""Tasks with an owner: small helpers around ``asyncio.TaskGroup``.

Every task of OutRelay belongs to a TaskGroup and has a name that says what it does
("relay: heartbeat"), so that ``/debug/tasks`` and a trace read like a table of contents.
"""

from __future__ import annotations

import asyncio
from asyncio import Task, TaskGroup
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TypeVar

from outrelay.lib.observe.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")


def spawn(group: TaskGroup, work: Coroutine[object, object, T], *, name: str) -> Task[T]:
    """Start ``work`` in ``group``; what it raises ends the whole group."""
    return group.create_task(work, name=name)


def isolate(group: TaskGroup, work: Coroutine[object, object, object], *, name: str) -> Task[None]:
    """Start ``work`` in ``group``; what it raises is logged and ends only itself.

    For work on behalf of one peer, where a bug must not take the others down. Failures
    that are expected are handled inside ``work``: what arrives here is logged as an error
    with its trace.
    """
    return group.create_task(_logged(work, name), name=name)


async def _logged(work: Coroutine[object, object, object], name: str) -> None:
    try:
        await work
    except Exception:
        log.exception("task failed", task=name)


@asynccontextmanager
async def beside(work: Coroutine[object, object, T], *, name: str) -> AsyncIterator[Task[T]]:
    """Run ``work`` beside the body of the ``with`` and cancel it when the body ends.

    When ``work`` fails the body is cancelled and the failure raised, in an exception
    group as ``asyncio.TaskGroup`` has it.
    """
    async with TaskGroup() as group:
        task = group.create_task(work, name=name)
        try:
            yield task
        finally:
            task.cancel()


async def until(stop: asyncio.Event, work: Coroutine[object, object, object], *, name: str) -> None:
    """Run ``work`` until it returns or ``stop`` is set; then it is cancelled and awaited.

    Raises:
        Exception: What ``work`` raised, as it is.
    """
    try:
        async with TaskGroup() as group:
            task = group.create_task(work, name=name)
            watch = group.create_task(_cancel_when(stop, task), name=f"{name}: stop")
            task.add_done_callback(lambda _: watch.cancel())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _cancel_when(stop: asyncio.Event, task: Task[object]) -> None:
    await stop.wait()
    task.cancel()

"""Turns of the event loop, for tests in which nothing waits for time or sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

MOST = 100_000


async def until(condition: Callable[[], bool]) -> None:
    """Give way until ``condition`` holds; what holds it up is only the turn of other tasks."""
    for _ in range(MOST):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition never held")


async def everybody_waits(turns: int = 200) -> None:
    """Give way so often that every task has got as far as it can."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def now(work: Awaitable[T]) -> T | None:
    """What ``work`` gives at once, None if it has to wait."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0):
            return await work
    return None

"""Leaps wake up whoever waits for a time that they pass."""

from __future__ import annotations

import asyncio

from tests.support.leap import leap


async def test_who_waits_for_later_wakes_up_at_once() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(3000) as limit, asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(1000), name="sleeper")
        await asyncio.sleep(0)
        leap(600)
        leap(600)
    assert 1200 <= loop.time() - began < 2000
    assert not limit.expired()

"""The count of streams, their ids, and a failure in one of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import pytest

from outrelay.agent.streams import Streams
from tests.support.events import Events


async def test_ids_are_not_zero_and_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: Iterator[int] = iter([5, 0, 5, 6, 5])
    monkeypatch.setattr(secrets, "randbits", lambda bits: next(drawn) if bits == 64 else 0)
    async with asyncio.TaskGroup() as group:
        streams = Streams(group, 10)
        with streams.new_id() as first, streams.new_id() as second:
            assert (first, second) == (5, 6)
        with streams.new_id() as again:
            assert again == 5


async def test_there_are_as_many_as_there_may_be() -> None:
    async with asyncio.TaskGroup() as group:
        streams = Streams(group, 2)
        done = asyncio.Event()
        for expected in (False, False):
            assert streams.full is expected
            streams.start(done.wait(), name="work")
        assert streams.full
        assert len(streams) == 2
        done.set()
        await streams.drain(60)
        assert len(streams) == 0


async def test_a_bug_in_one_stream_ends_only_that(seen: Events) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async with asyncio.TaskGroup() as group:
        streams = Streams(group, 2)
        streams.start(fail(), name="broken")
        await seen.wait("task failed", task="broken")
        streams.start(asyncio.sleep(0), name="fine")


async def test_streams_that_a_relay_gave_one_name_are_both_shown() -> None:
    async with asyncio.TaskGroup() as group:
        streams = Streams(group, 2)
        with streams.showing("a", dict):
            with streams.showing("a", dict):
                assert [*streams.shown] == ["a", "a/2"]
            assert [*streams.shown] == ["a"]
        assert not streams.shown

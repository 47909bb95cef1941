"""Streams that nobody reads: let be while they are few, ended by turn when they are many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from outrelay.lib.errors import ErrorCode, Reset
from outrelay.lib.tasks import beside
from outrelay.lib.transport.carrier import READ_SIZE, WRITE_BUFFER, Stream
from outrelay.lib.transport.memory import MemoryStream
from outrelay.lib.transport.pipe import WINDOW
from outrelay.relay import stalls
from outrelay.relay.stalls import PATIENCE, Stalls
from tests.relay.rooms import Call, Rooms, call, relay_rooms
from tests.support.events import events
from tests.support.peers import AGENT_A, AGENT_B, AGENT_C, FEATURES, AgentPeer
from tests.support.turns import until

FULL = bytes(2 << 20)
"""More than lies between sender and receiver."""

HELD = READ_SIZE + WRITE_BUFFER + WINDOW
"""What one stalled direction may hold on this carrier."""


async def reset_code(stream: Stream) -> ErrorCode:
    """The code with which a stream was ended."""
    with pytest.raises(Reset) as caught:
        while await stream.read():
            pass
    return caught.value.code


class Crowd:
    """Streams of two consumers, each written by its provider and read by nobody."""

    def __init__(self, relay: Rooms, provider: AgentPeer, group: asyncio.TaskGroup) -> None:
        self._relay = relay
        self._provider = provider
        self._group = group
        self.calls: list[Call] = []

    async def stall(self, consumer: AgentPeer, *, up: bool = False) -> Call:
        """One more; with ``up`` the provider does not read."""
        number = len(self.calls) + 1
        line = await call(self._relay, stream_id=number, consumer=consumer, provider=self._provider)
        self.calls.append(line)
        self._group.create_task(self._fill(line.near if up else line.far))
        await until(lambda: self._waits(number))
        return line

    async def _fill(self, stream: Stream) -> None:
        with suppress(Reset):
            await stream.write(FULL)

    def _waits(self, number: int) -> bool:
        (pair,) = [pair for pair in self._relay.pairs if pair.call.stream_id == number]
        assert pair.splice is not None
        directions = (pair.splice.up, pair.splice.down)
        return any(each.writing_since is not None and each.bytes > 0 for each in directions)


@asynccontextmanager
async def crowd() -> AsyncIterator[tuple[Rooms, Crowd, AgentPeer, AgentPeer]]:
    async with relay_rooms() as relay, asyncio.TaskGroup() as group:
        provider = await relay.provider()
        some = Crowd(relay, provider, group)
        consumer = await relay.agent(AGENT_A, *FEATURES)
        yield relay, some, consumer, await relay.agent(AGENT_C, *FEATURES)
        for line in some.calls:
            line.near.stop(ErrorCode.CANCELLED)
            line.near.reset(ErrorCode.CANCELLED)
            line.far.reset(ErrorCode.CANCELLED)


def later() -> float:
    return time.monotonic() + PATIENCE


async def test_few_are_let_be() -> None:
    async with crowd() as (relay, some, one, other):
        for consumer in (one, one, other):
            await some.stall(consumer)
        Stalls(relay.pairs, most=3 * HELD).relieve(later())

        assert len(relay.pairs) == 3
        for line in some.calls:
            assert await line.near.read()


async def test_who_reads_least_loses_what_it_has_not_read_for_longest() -> None:
    async with crowd() as (relay, some, greedy, modest):
        for consumer in (modest, greedy, greedy, greedy, greedy):
            await some.stall(consumer)
        with events() as seen:
            Stalls(relay.pairs, most=3 * HELD).relieve(later())
        await until(lambda: len(relay.pairs) == 3)

        for lost in some.calls[1:3]:
            assert await reset_code(lost.near) is ErrorCode.LIMIT
        for kept in (some.calls[0], *some.calls[3:]):
            assert await kept.near.read()
        (line,) = seen.of("stalled stream cut off")
        assert line["not_read_by"] == AGENT_A.uri
        closed = relay.events("close")
        assert {event.stream_id for event in closed} == {f"{number:016x}" for number in (2, 3)}
        assert all("not read" in event.reason for event in closed)
        assert relay.metric("outrelay_streams_ended_total", result="limit") == 2


async def test_wide_windows_count_for_what_they_let_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryStream, "window", 16 << 20)
    async with crowd() as (relay, some, one, other):
        for consumer in (one, other, other):
            await some.stall(consumer)
        Stalls(relay.pairs, most=40 << 20).relieve(later())
        await until(lambda: len(relay.pairs) == 2)

        assert await reset_code(some.calls[1].near) is ErrorCode.LIMIT


async def test_a_provider_that_does_not_read_counts_too() -> None:
    async with crowd() as (relay, some, one, other):
        for consumer in (one, other, other):
            await some.stall(consumer, up=True)
        with events() as seen:
            Stalls(relay.pairs, most=2 * HELD).relieve(later())
        await until(lambda: len(relay.pairs) == 2)

        assert await reset_code(some.calls[0].far) is ErrorCode.LIMIT
        assert seen.of("stalled stream cut off", not_read_by=AGENT_B.uri)


async def test_who_is_only_slow_is_not_stalled() -> None:
    async with crowd() as (relay, some, one, _):
        await some.stall(one)
        Stalls(relay.pairs, most=0).relieve(time.monotonic())
        assert len(relay.pairs) == 1

        data = await some.calls[0].near.read()  # goes on
        assert data


async def test_a_stream_that_is_being_opened_is_not_stalled() -> None:
    async with relay_rooms() as relay:
        await relay.provider()
        consumer = await relay.agent(AGENT_A, *FEATURES)
        await consumer.open("echo", stream_id=1)
        await until(lambda: len(relay.pairs) == 1)
        Stalls(relay.pairs, most=0).relieve(later())

        assert len(relay.pairs) == 1


async def test_it_looks_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalls, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(stalls, "PATIENCE", 0.0)
    async with crowd() as (relay, some, one, _):
        for _round in range(2):
            line = await some.stall(one)
            async with beside(Stalls(relay.pairs, most=0).run(), name="stalls"):
                with pytest.raises(Reset):
                    await line.near.wait_finished()

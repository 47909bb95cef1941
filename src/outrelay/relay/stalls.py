"""Bounds what streams cost whose reader has stopped.

Words: a direction is *stalled* while its sink has taken nothing of a chunk for ``PATIENCE``;
the agent at the sink is the one that does not read. What a stalled direction may *hold* here
is the chunk, what the carrier has not sent of it, and what the source's window lets come.

A reader that stops is no fault, and few of them are let be for ever. When they may hold more
than the relay has memory for, the agent whose streams may hold the most loses the one it has
not read for the longest time, until it is little enough: who stalls little loses nothing to
who stalls much.

Source: architecture.md, decision 2.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from typing import NamedTuple

from outrelay.lib.errors import ErrorCode
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.throttle import Throttle
from outrelay.lib.transport.carrier import READ_SIZE
from outrelay.relay.pairs import Pair, Pairs
from outrelay.relay.splice import CONSUMER, Direction

log = get_logger(__name__)

PATIENCE = 1.0
"""Seconds a write may take before its direction counts as stalled."""

LOOK_EVERY = 1.0
"""Seconds between looks."""


class _Stall(NamedTuple):
    """A stalled direction: since when, who does not read, the stream, and the bytes it may hold."""

    since: float
    agent: str
    pair: Pair
    holds: int


class Stalls:
    """Looks for stalled streams and ends some when all together may hold too much.

    Args:
        pairs: The streams.
        most: Bytes that stalled directions may hold.
    """

    def __init__(self, pairs: Pairs, most: int) -> None:
        self._pairs = pairs
        self._most = most
        self._throttle = Throttle()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self.relieve(time.monotonic())

    def relieve(self, now: float) -> None:
        """End streams until the others hold little enough; ``now`` is monotonic seconds."""
        stalled = sorted(self._stalled(now), key=lambda stall: stall.since)
        by_agent: dict[str, deque[_Stall]] = defaultdict(deque)
        held: Counter[str] = Counter()
        for stall in stalled:
            by_agent[stall.agent].append(stall)
            held[stall.agent] += stall.holds
        heap = [(-holds, agent) for agent, holds in held.items()]
        heapq.heapify(heap)
        excess = held.total() - self._most
        while excess > 0:
            holds, agent = heapq.heappop(heap)
            stall = by_agent[agent].popleft()
            self._end(stall, now)
            heapq.heappush(heap, (holds + stall.holds, agent))
            excess -= stall.holds

    def _stalled(self, now: float) -> Iterator[_Stall]:
        for pair in self._pairs:
            if pair.splice is None:
                continue
            for direction in (pair.splice.up, pair.splice.down):
                since = direction.writing_since
                if since is not None and now - since >= PATIENCE:
                    at_consumer = direction.sink.side == CONSUMER
                    agent = (pair.consumer if at_consumer else pair.provider).uri
                    yield _Stall(since, agent, pair, _holds(direction))

    def _end(self, stall: _Stall, now: float) -> None:
        pair = stall.pair
        assert pair.splice is not None
        self._throttle.write(
            log.warning,
            "stalled stream cut off",
            cause=stall.agent,
            stream_id=pair.call.stream_name,
            not_read_by=stall.agent,
            seconds=round(now - stall.since, 1),
            hint=f"what is not read may take more than {self._most >> 20} MiB of this relay",
        )
        pair.splice.abandon(ErrorCode.LIMIT, "not read, and too much is not")


def _holds(direction: Direction) -> int:
    return READ_SIZE + direction.sink.stream.unsent + direction.source.stream.window

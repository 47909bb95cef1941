"""Bounds what streams cost whose reader has stopped.

Words: a direction is *stalled* while its sink has taken nothing of a chunk for ``PATIENCE``;
the agent at the sink is the one that does not read. A stalled direction holds memory here:
the chunk, what the carrier has not sent of it, and what the source's window lets come.

A reader that stops is no fault, and few of them are let be for ever. When there are more
than the relay has memory for, the agent that does not read the most streams loses the one
it has not read for the longest time, until there are few enough: who stalls little loses
nothing to who stalls much.

Source: architecture.md, decision 2.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import defaultdict, deque
from collections.abc import Iterator

from outrelay.lib.errors import ErrorCode
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.throttle import Throttle
from outrelay.relay.pairs import Pair, Pairs
from outrelay.relay.splice import CONSUMER

log = get_logger(__name__)

PATIENCE = 1.0
"""Seconds a write may take before its direction counts as stalled."""

LOOK_EVERY = 1.0
"""Seconds between looks."""

_Stall = tuple[float, str, Pair]
"""Since when, who does not read, and the stream."""


class Stalls:
    """Looks for stalled streams and ends those that are too many.

    Args:
        pairs: The streams.
        most: Directions that may be stalled at a time.
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
        """End the streams that are too many; ``now`` is monotonic seconds."""
        stalled = sorted(self._stalled(now), key=lambda stall: stall[0])
        by_agent: dict[str, deque[_Stall]] = defaultdict(deque)
        for stall in stalled:
            by_agent[stall[1]].append(stall)
        heap = [(-len(stalls), agent) for agent, stalls in by_agent.items()]
        heapq.heapify(heap)
        for _ in range(len(stalled) - self._most):
            count, agent = heapq.heappop(heap)
            self._end(by_agent[agent].popleft(), now)
            heapq.heappush(heap, (count + 1, agent))

    def _stalled(self, now: float) -> Iterator[_Stall]:
        for pair in self._pairs:
            if pair.splice is None:
                continue
            for direction in (pair.splice.up, pair.splice.down):
                since = direction.writing_since
                if since is not None and now - since >= PATIENCE:
                    at_consumer = direction.sink.side == CONSUMER
                    yield since, (pair.consumer if at_consumer else pair.provider).uri, pair

    def _end(self, stall: _Stall, now: float) -> None:
        since, agent, pair = stall
        assert pair.splice is not None
        self._throttle.write(
            log.warning,
            "stalled stream cut off",
            cause=agent,
            stream_id=pair.call.stream_name,
            not_read_by=agent,
            seconds=round(now - since, 1),
            hint=f"more than {self._most} streams of this relay are not read",
        )
        pair.splice.abandon(ErrorCode.LIMIT, "not read, and too many streams are not")

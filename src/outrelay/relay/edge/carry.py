"""Carrying a stream from the moment its two legs are joined to its end.

Source: protocol.md section 5.
"""

from __future__ import annotations

import time

from outrelay.lib.errors import ErrorCode
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.metrics import StreamMetrics
from outrelay.relay.audit.trail import Trail
from outrelay.relay.clock import unix_ms
from outrelay.relay.pairs import Pair
from outrelay.relay.splice import CONSUMER, Ending, Leg, Splice

log = get_logger(__name__)

LOST = frozenset({ErrorCode.LEG_LOST, ErrorCode.DRAIN})
"""Ends that a stream may outlive."""


class Carriage:
    """Joins legs and sees streams to their end.

    Args:
        trail: Where the end is recorded.
        metrics: Counts streams and their bytes.
    """

    def __init__(self, trail: Trail, metrics: StreamMetrics) -> None:
        self._trail = trail
        self._metrics = metrics

    def join(self, pair: Pair, consumer: Leg, provider: Leg) -> Splice:
        """Give ``pair`` its splice; nothing is passed on yet."""
        pair.opened_ms = unix_ms()
        pair.splice = Splice(
            consumer, provider, self._metrics.bytes_up.inc, self._metrics.bytes_down.inc
        )
        return pair.splice

    async def run(self, pair: Pair, splice: Splice, owner: str = CONSUMER) -> None:
        """Pass bytes until the end of the stream, and record that.

        Args:
            pair: The stream.
            splice: Its splice.
            owner: See ``Splice.run``.
        """
        started = time.monotonic()
        self._metrics.open.inc()
        try:
            await splice.run(owner)
        finally:
            self._ended(pair, splice, time.monotonic() - started)

    def _ended(self, pair: Pair, splice: Splice, seconds: float) -> None:
        ending, up, down = splice.ending, splice.up.bytes, splice.down.bytes
        self._metrics.open.dec()
        self._metrics.ended.labels(_result(ending)).inc()
        reason = f"{ending.reason} ({ending.code.name})" if ending.code else ending.reason
        if ending.code in LOST and pair.obstacle:
            reason = f"{reason}, not resumable: {pair.obstacle}"
        self._trail.closed(pair.call, pair.provider.uri, reason, up=up, down=down, seconds=seconds)
        log.info(
            "stream ended",
            stream_id=pair.call.stream_name,
            reason=reason,
            bytes_up=up,
            bytes_down=down,
            seconds=round(seconds, 3),
        )


def _result(ending: Ending) -> str:
    return ending.code.name.lower() if ending.code else "closed"

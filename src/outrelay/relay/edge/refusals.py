"""Handshakes that were refused: counted all, logged once each, but not a flood of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.metrics import CarrierMetrics
from outrelay.lib.transport.carrier import Address
from outrelay.lib.values import address_text

log = get_logger(__name__)

QUIET = 1.0
"""Seconds in which one host is not reported twice for the same reason."""

MOST_REMEMBERED = 1024


class Refusals:
    """Told of every handshake refused.

    Args:
        metrics: Counts them.
        monotonic: Seconds.
    """

    def __init__(
        self, metrics: CarrierMetrics, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._counter = metrics.handshakes_refused.labels("handshake")
        self._monotonic = monotonic
        self._reported: dict[tuple[str, str], float] = {}

    def __call__(self, address: Address, reason: str) -> None:
        """A handshake from ``address`` was refused."""
        self._counter.inc()
        now = self._monotonic()
        key = (address[0], reason)
        if now - self._reported.get(key, -QUIET) < QUIET:
            return
        if len(self._reported) >= MOST_REMEMBERED:
            self._reported.clear()
        self._reported[key] = now
        log.warning("handshake refused", address=address_text(address), reason=reason)

"""Who was turned away before there was a connection: counted all, logged once a second."""

from __future__ import annotations

from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.metrics import CarrierMetrics
from outrelay.lib.observe.throttle import Throttle, Write
from outrelay.lib.transport.refusal import NO_HANDSHAKE, Refusal
from outrelay.lib.values import address_text

log = get_logger(__name__)


class Refusals:
    """Told of everybody turned away.

    Args:
        metrics: Counts them.
        throttle: Bounds the log.
    """

    def __init__(self, metrics: CarrierMetrics, throttle: Throttle | None = None) -> None:
        self._metrics = metrics
        self._throttle = throttle or Throttle()

    def __call__(self, refusal: Refusal) -> None:
        """Somebody was."""
        cause = refusal.cause
        if cause in NO_HANDSHAKE:
            self._metrics.datagrams_dropped.labels(cause).inc(refusal.times)
            self._tell(log.info, "datagrams dropped", refusal)
        else:
            self._metrics.handshakes_refused.labels(cause).inc(refusal.times)
            self._tell(log.warning, "handshake refused", refusal)

    def _tell(self, write: Write, event: str, refusal: Refusal) -> None:
        self._throttle.write(
            write,
            event,
            cause=refusal.cause,
            times=refusal.times,
            address=address_text(refusal.address),
            reason=refusal.reason or str(refusal.cause),
        )

"""Streams that ended a moment ago: their last acknowledgements are still on their way.

Invariant: what is remembered is bounded, and holds nothing of a stream but whose it was.

Source: docs/decisions/0010-the-second-fin-waits.md.
"""

from __future__ import annotations

from typing import NamedTuple

from outrelay.relay.edge.session import Session

KEPT = 2.0
"""Seconds that a stream is remembered."""

MOST = 16 * 1024
"""Streams remembered."""


class Ends(NamedTuple):
    """The two sessions of a stream."""

    consumer: Session
    provider: Session


class Ended:
    """Remembers streams, by tenant and stream id."""

    def __init__(self) -> None:
        self._ended: dict[tuple[str, int], tuple[float, Ends]] = {}  # the oldest come first

    def __len__(self) -> int:
        return len(self._ended)

    def add(self, key: tuple[str, int], ends: Ends, now: float) -> None:
        """A stream has ended.

        Args:
            key: Its tenant and id.
            ends: Whose it was.
            now: Monotonic seconds.
        """
        self._ended.pop(key, None)
        self._ended[key] = (now, ends)
        self._forget(now)

    def find(self, key: tuple[str, int], now: float) -> Ends | None:
        """Whose stream that was, if it ended a moment ago."""
        self._forget(now)
        _, ends = self._ended.get(key, (0.0, None))
        return ends

    def _forget(self, now: float) -> None:
        while self._ended:
            oldest = next(iter(self._ended))
            if len(self._ended) <= MOST and now - self._ended[oldest][0] <= KEPT:
                return
            del self._ended[oldest]

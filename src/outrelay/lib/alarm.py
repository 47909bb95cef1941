"""One timer of the event loop, for whoever has deadlines that come and go.

Most deadlines are replaced by later ones before they pass, many times in a millisecond: a timer
is only touched when the next one is earlier than what it is set to, and whoever it wakes looks
what is due.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from collections.abc import Callable

CLOCK = 0.001
"""Seconds that a loop's clock and its timers may differ by, on uvloop: one that came too early
would be set again at once, again and again, and keep the processor busy until its time."""


class Alarm:
    """Rings once, ``CLOCK`` behind the earliest of the moments it was set to.

    While it is not set it knows nobody: no circle is left for the garbage collector.
    """

    __slots__ = ("_at", "_loop", "_timer")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: TimerHandle | None = None
        self._at = 0.0

    def set(self, at: float | None, act: Callable[[], None]) -> None:
        """Call ``act`` at ``at``, if not earlier; it sets the alarm again.

        Args:
            at: Seconds of the loop's clock; None: there is no need to.
            act: Always the same.
        """
        if at is None or (self._timer is not None and self._at <= at):
            return
        self.cancel()
        self._at = at
        self._timer = self._loop.call_at(at + CLOCK, self._ring, act)

    def cancel(self) -> None:
        """Do not ring; it may be set again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self, act: Callable[[], None]) -> None:
        self._timer = None
        act()

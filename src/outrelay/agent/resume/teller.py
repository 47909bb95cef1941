"""Tells the peer where we are, when that is due.

Source: protocol.md section 6.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle

from outrelay.agent.resume.line import Line
from outrelay.lib.orp.v1 import orp_pb2 as orp

CLOCK = 0.001
"""Seconds that a loop's clock and its timers may differ by, on uvloop: one that came too early
would come again and again, and keep the processor busy until its time."""


class Teller:
    """Sends the checkpoints of one stream; without a leg none: the next one begins with it.

    Args:
        line: The stream.
        stream_id: Its number.
    """

    __slots__ = ("_line", "_loop", "_stream_id", "_timer", "_timer_at")

    def __init__(self, line: Line, stream_id: int) -> None:
        self._line = line
        self._stream_id = stream_id
        self._loop = asyncio.get_running_loop()
        self._timer: TimerHandle | None = None
        self._timer_at = 0.0

    def tell(self) -> None:
        """Send a checkpoint now."""
        if self._line.leg is None:
            return
        now = self._line.state.checkpoint(self._loop.time())
        message = orp.StreamCheckpoint(
            stream_id=self._stream_id,
            my_position=now.my_position,
            peer_ack_position=now.peer_ack_position,
            final_position=now.final_position,
        )
        self._line.leg.session.post(message)
        self.arm()

    def arm(self) -> None:
        """Send the next checkpoint when it is due."""
        due = self._line.state.due_at()
        if due is None or (self._timer and self._timer_at <= due):
            return
        if self._timer:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_at(due + CLOCK, self._tick)

    def stop(self) -> None:
        """Tell no more."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        due = self._line.state.due_at()
        if due is not None and due <= self._loop.time():
            self.tell()
        elif due is not None:
            self.arm()

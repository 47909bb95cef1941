"""Tells the peer where we are, when that is due.

Source: protocol.md section 6.
"""

from __future__ import annotations

import asyncio

from outrelay.agent.resume.line import Line
from outrelay.lib.alarm import Alarm
from outrelay.lib.orp.v1 import orp_pb2 as orp


class Teller:
    """Sends the checkpoints of one stream; without a leg none: the next one begins with it.

    Args:
        line: The stream.
        stream_id: Its number.
    """

    __slots__ = ("_alarm", "_line", "_loop", "_stream_id")

    def __init__(self, line: Line, stream_id: int) -> None:
        self._line = line
        self._stream_id = stream_id
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm()

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
        self._alarm.set(self._line.state.due_at(), self._tick)

    def stop(self) -> None:
        """Tell no more."""
        self._alarm.cancel()

    def _tick(self) -> None:
        due = self._line.state.due_at()
        if due is not None and due <= self._loop.time():
            self.tell()
        elif due is not None:
            self.arm()

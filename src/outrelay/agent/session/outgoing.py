"""What a session says on the control stream when its time has come: checkpoints, ends and PINGs.

Words: the relay is *heard* when a frame of it comes.

Invariants: whoever has something to say never waits; of a stream only the newest checkpoint
waits to be sent. A relay that was not heard for as long as it may be silent is gone, unless it
was we who were not running.

Source: protocol.md section 6; commands.md, ``--dead-after``.
"""

from __future__ import annotations

import asyncio
from typing import Never

from google.protobuf.empty_pb2 import Empty

from outrelay.lib.errors import Closed, ErrorCode
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.frames import FrameWriter

PULSE = 1.0
"""Seconds between two PINGs."""

STALLED = 1.0
"""Seconds that a pulse may be late; later, and this process was not running."""


class Outgoing:
    """Sends the newest checkpoint of each stream, with which code it ends, and PINGs.

    Args:
        writer: Of the control stream.
    """

    def __init__(self, writer: FrameWriter) -> None:
        self._writer = writer
        self._checkpoints: dict[int, orp.StreamCheckpoint] = {}
        self._ends: dict[int, ErrorCode] = {}
        self._ping = False
        self._something = asyncio.Event()

    def post(self, checkpoint: orp.StreamCheckpoint) -> None:
        """Send ``checkpoint`` soon, instead of an older one of its stream."""
        self._checkpoints[checkpoint.stream_id] = checkpoint
        self._something.set()

    def end(self, stream_id: int, code: ErrorCode) -> None:
        """Say at once that a stream is about to be reset with ``code``."""
        self._ends[stream_id] = code
        self._something.set()

    def ping(self) -> None:
        """Send a PING soon."""
        self._ping = True
        self._something.set()

    async def run(self) -> Never:
        """Send what there is, for ever.

        Raises:
            Reset: The relay stopped reading.
            Closed: The connection is gone.
        """
        while True:
            await self._something.wait()
            self._something.clear()
            if self._ping:
                self._ping = False
                await self._writer.send(FrameType.PING, Empty())
            ends, self._ends = self._ends, {}
            for stream_id, code in ends.items():
                ended = orp.StreamEnded(stream_id=stream_id, code=code)
                await self._writer.send(FrameType.STREAM_ENDED, ended)
            checkpoints, self._checkpoints = self._checkpoints, {}
            for each in checkpoints.values():
                await self._writer.send(FrameType.STREAM_CHECKPOINT, each)


class Pulse:
    """Asks the relay for a sign of life while streams live.

    Args:
        outgoing: Sends the PINGs.
        patience: Seconds the relay may be silent.
    """

    def __init__(self, outgoing: Outgoing, patience: float) -> None:
        self._outgoing = outgoing
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._asked_at: float | None = None
        self.live = False
        """Whether streams live."""
        self.rtt: float | None = None
        """Seconds that the last answer took; None: none was asked for yet."""

    def heard(self) -> None:
        """A frame has come."""
        self._heard_at = self._loop.time()

    def answered(self) -> None:
        """A PONG has come."""
        if self._asked_at is not None:
            self.rtt, self._asked_at = self._loop.time() - self._asked_at, None

    async def run(self) -> Never:
        """Ask each second, for ever.

        Raises:
            Closed: The relay is gone.
        """
        ask_at = self._loop.time()
        while True:
            due = min(ask_at, self._heard_at + self._patience) if self.live else ask_at
            await asyncio.sleep(due - self._loop.time())
            now = self._loop.time()
            if not self.live or now - due > STALLED:
                self._heard_at = now  # it was not asked, or could not be heard
            elif now - self._heard_at >= self._patience:
                reason = f"the relay did not answer within {self._patience:g} s"
                raise Closed(reason=reason, lost=True)
            if now >= ask_at:
                ask_at = now + PULSE
                if self.live:
                    self._asked_at = self._asked_at or now
                    self._outgoing.ping()

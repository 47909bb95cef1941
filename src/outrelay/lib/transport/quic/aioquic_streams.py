"""What the aioquic engine keeps of streams, and the limits it grants.

Source: RFC 9000 section 4.
"""

from __future__ import annotations

from aioquic.quic.connection import Limit
from aioquic.quic.recovery import QuicPacketPacer
from aioquic.quic.stream import QuicStream

from outrelay.lib.transport.quic.engine import STREAM_WINDOW

BURST = 64
"""Packets one call builds: about a millisecond of work, so that others get their turn."""

PACING_SLACK = 0.004
"""Seconds of sending a late timer may make up for."""


class StreamRecord:
    """What the engine keeps of a stream beside aioquic's own state."""

    __slots__ = (
        *("id", "local", "quic", "queued"),
        *("buffer", "consumed", "window", "window_time"),
        *("fin", "read_done", "stopped", "halted", "finish_reported"),
    )

    def __init__(self, quic: QuicStream, stream_id: int, *, local: bool) -> None:
        self.quic = quic
        self.id = stream_id
        self.local = local
        self.buffer = bytearray()
        self.consumed = 0
        self.window = STREAM_WINDOW
        self.window_time = 0.0
        self.fin = False  # everything has arrived
        self.read_done = False  # and the reader has been told
        self.stopped = False  # we asked the peer to send no more
        self.halted = False  # the peer asked us
        self.queued = False
        self.finish_reported = False

    @property
    def unsent(self) -> int:
        """Bytes written that no packet has carried yet."""
        sender = self.quic.sender
        return int(sender._buffer_stop - sender.highest_offset)


class GrantedLimit(Limit):
    """A limit that only we raise: aioquic's own ``value += 1`` has no effect."""

    def __init__(self, frame_type: int, name: str, value: int) -> None:
        self._granted = value
        super().__init__(frame_type, name, value)

    @property
    def value(self) -> int:
        return self._granted

    @value.setter
    def value(self, value: int) -> None:
        pass

    def grant(self) -> None:
        """Allow one more."""
        self._granted += 1


class Pacer(QuicPacketPacer):
    """aioquic's pacer with a burst that outlasts asyncio's timer granularity."""

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        super().update_rate(congestion_window, smoothed_rtt)
        self.bucket_max = max(self.bucket_max, PACING_SLACK)

    def blocked_until(self, now: float) -> float | None:
        """When the next packet may go; None: at once."""
        if self.packet_time is None:
            return None
        self.update_bucket(now)
        return float(now + self.packet_time) if self.bucket_time <= 0 else None

    def allowance(self, now: float) -> int:
        """Packets that may go now, at most a burst."""
        if self.packet_time is None:
            return BURST
        self.update_bucket(now)
        return min(int(self.bucket_time / self.packet_time) + 1, BURST)

    def spend(self, packets: int) -> None:
        """That many were built."""
        if self.packet_time is not None:
            self.bucket_time = max(self.bucket_time - packets * self.packet_time, 0.0)

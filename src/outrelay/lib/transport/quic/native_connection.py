"""What is decided about one connection of the native engine.

Words: a connection is *confirmed* when both sides have accepted each other; until then what
its streams do is kept back.

Invariants: a stream that the peer has stopped is given up, once; the peer hears of every
stream it may open again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from outrelay.lib.transport.quic.engine import STREAMS, Event, EventKind
from outrelay.lib.transport.quic.native_peers import Link
from outrelay.lib.transport.quic.native_sending import Sending
from outrelay.lib.transport.quic.segments import BATCH_MAX, SEGMENTS_MAX

if TYPE_CHECKING:
    from outrelay_native import Batch, NativeConnection, News

STREAMS_FIRST = STREAMS
"""Streams a peer may have open at once to begin with: all, see docs/decisions/0025."""

_KINDS = {
    "opened": EventKind.STREAM_OPENED,
    "readable": EventKind.READABLE,
    "reset": EventKind.RESET,
}


class Connection:
    """One connection: who it is with, and what is on its way to quinn-proto and back.

    Args:
        quic: Its state machine.
        link: Who it is with.
        events: Where to say what happens.
    """

    __slots__ = (
        *("quic", "link", "number", "sending", "_events", "_kept_back"),
        *("_waits_for_streams", "_has_accepted", "_allowed", "_closing"),
    )

    def __init__(self, quic: NativeConnection, link: Link, events: list[Event]) -> None:
        self.quic = quic
        self.link = link
        self.number = link.number
        self.sending = Sending(quic)
        self._events = events
        self._kept_back: dict[News, None] = {}
        self._waits_for_streams = False
        self._has_accepted = False  # streams of the peer's
        self._allowed = STREAMS_FIRST
        self._closing: tuple[int, bytes] | None = None

    # News

    def take(self, news: list[News]) -> None:
        """Act on news, and pass on what others must hear."""
        link = self.link
        if link.dialled and not link.connected and self.quic.is_accepted():
            self._confirm()
        for each in news:
            if each[0] == "connected":
                if not link.dialled:
                    self._confirm()
            elif link.connected:
                self._take_of_stream(*each)
            else:
                self._kept_back[each] = None

    def _confirm(self) -> None:
        self.link.connected = True
        self._events.append(Event(EventKind.CONNECTED, self.number, peer=self.link.peer))
        for each in self._kept_back:
            self._take_of_stream(*each)
        self._kept_back.clear()

    def _take_of_stream(self, what: str, stream: int, code: int) -> None:
        if what == "writable":
            self.sending.line_up(stream)
        elif what == "finished":
            self.sending.forget(stream)
            self._say(EventKind.FINISHED, stream)
        elif what == "stopped":
            self.reset(stream, code, why=EventKind.STOPPED)
        elif what == "available":
            if self._waits_for_streams:
                self._waits_for_streams = False
                self._say(EventKind.STREAMS_AVAILABLE)
        else:
            self._has_accepted = self._has_accepted or what == "opened"
            self._say(_KINDS[what], stream, code)

    def _say(self, kind: EventKind, stream: int = -1, code: int = 0) -> None:
        if not self.link.ended:
            self._events.append(Event(kind, self.number, stream, code))

    # Sending

    def transmit(self, now: float, most: int) -> Batch | None:
        """One batch of at most ``most`` datagrams."""
        if self._closing is not None:
            code, reason = self._closing
            self._closing = None
            self.quic.close(code, reason, now)
        elif not self.link.ended:
            for stream in self.sending.feed():
                self._say(EventKind.WRITABLE, stream)
            if self._has_accepted:
                self._give_streams_back()
        return self.quic.transmit(now, most)

    def _give_streams_back(self) -> None:
        """Those that have ended, one by one; and room for all as soon as half is in use."""
        in_use, _ = self.quic.allow_streams(self._allowed)
        if in_use > self._allowed // 2 and self._allowed < STREAMS:
            self._allowed = STREAMS
            self.quic.allow_streams(STREAMS)

    def close(self, code: int, reason: str) -> None:
        """Tell the peer with the next ``transmit``; nothing else is sent any more."""
        self._closing = code, reason.encode()

    # What the shell asks

    def open_stream(self) -> int | None:
        """A new stream, or None; then its credit is told as an event."""
        stream = self.quic.open_stream()
        self._waits_for_streams = self._waits_for_streams or stream is None
        return stream

    def read(self, stream: int, limit: int) -> tuple[bytes, bool]:
        """Bytes that have arrived, and whether they are the last."""
        data, is_last, reset = self.quic.read(stream, limit)
        if reset is not None:
            self._say(EventKind.RESET, stream, reset)
        return data, is_last

    def reset(self, stream: int, code: int, *, why: EventKind | None = None) -> None:
        """End our direction, unless the peer has everything or was told."""
        self.sending.forget(stream)
        if self.quic.reset(stream, code):
            if why is not None:
                self._say(why, stream, code)
            self._say(EventKind.FINISHED, stream)


def batch_of(datagram_size: int) -> int:
    """How many datagrams of at most so many bytes the kernel takes at once."""
    return max(1, min(SEGMENTS_MAX, BATCH_MAX // datagram_size))

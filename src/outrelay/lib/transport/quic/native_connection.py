"""What is decided about one connection of the native engine.

Words: a connection is *confirmed* when both sides have accepted each other; until then what
its streams do is kept back. A stream is *promised* when it was opened here, and waits for the
peer's leave.

Invariants: a stream that the peer has stopped is given up, once; the peer hears of every
stream it may open again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from outrelay.lib.transport.quic.engine import STREAMS, Event, EventKind
from outrelay.lib.transport.quic.native_peers import Link
from outrelay.lib.transport.quic.native_sending import Sending
from outrelay.lib.transport.quic.segments import BATCH_MAX, SEGMENTS_MAX

if TYPE_CHECKING:
    from outrelay_native import Batch, NativeConnection, News

STREAMS_FIRST = 32
"""Streams a peer may have open at once to begin with; see docs/decisions/0025."""

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
        *("_waits_for_streams", "_has_accepted", "_allowed", "_closing", "_opened", "_promised"),
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
        self._opened = 0
        self._promised: dict[int, _Promised] = {}

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
            self._keep_promises()
            if self._waits_for_streams and not self._promised:
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
            if self._has_accepted or self._allowed < STREAMS:
                self._give_streams_back()
        return self.quic.transmit(now, most)

    def _give_streams_back(self) -> None:
        """Those that have ended, one by one; and room for all as soon as it is of use."""
        in_use, _, is_asked = self.quic.allow_streams(self._allowed)
        if self._allowed < STREAMS and (is_asked or in_use > self._allowed // 2):
            self._allowed = STREAMS
            self.quic.allow_streams(STREAMS)

    def close(self, code: int, reason: str) -> None:
        """Tell the peer with the next ``transmit``; nothing else is sent any more."""
        self._closing = code, reason.encode()

    # What the shell asks

    def open_stream(self) -> int | None:
        """A new stream, or None; then its credit is told as an event.

        Peers like us give leave for STREAMS once they see that the first ones are used, and
        quinn-proto does not tell them that it lacks more: so many are promised meanwhile.
        """
        self._keep_promises()
        stream = None if self._promised else self.quic.open_stream()
        if stream is None and self._opened < STREAMS:
            stream = 4 * self._opened + (not self.link.dialled)
            self._promised[stream] = _Promised()
            self.sending.hold(stream)
        if stream is None:
            self._waits_for_streams = True
        else:
            self._opened += 1
        return stream

    def _keep_promises(self) -> None:
        while self._promised and (stream := self.quic.open_stream()) is not None:
            promised = self._promised.pop(stream)
            if promised.stop is not None:
                self.quic.stop_sending(stream, promised.stop)
            if promised.reset is None:
                self.sending.release(stream)
            else:
                self.quic.reset(stream, promised.reset)

    def read(self, stream: int, limit: int) -> tuple[bytes, bool]:
        """Bytes that have arrived, and whether they are the last."""
        if stream in self._promised:
            return b"", False
        data, is_last, reset = self.quic.read(stream, limit)
        if reset is not None:
            self._say(EventKind.RESET, stream, reset)
        return data, is_last

    def reset(self, stream: int, code: int, *, why: EventKind | None = None) -> None:
        """End our direction, unless the peer has everything or was told."""
        self.sending.forget(stream)
        if promised := self._promised.get(stream):
            is_news, promised.reset = promised.reset is None, code
        else:
            is_news = self.quic.reset(stream, code)
        if is_news:
            if why is not None:
                self._say(why, stream, code)
            self._say(EventKind.FINISHED, stream)

    def stop_sending(self, stream: int, code: int) -> None:
        """Have the peer send no more."""
        if promised := self._promised.get(stream):
            promised.stop = code
        else:
            self.quic.stop_sending(stream, code)


@dataclass(slots=True)
class _Promised:
    """How a stream has ended that the peer knows nothing of."""

    reset: int | None = None
    stop: int | None = None


def batch_of(datagram_size: int) -> int:
    """How many datagrams of at most so many bytes the kernel takes at once."""
    return max(1, min(SEGMENTS_MAX, BATCH_MAX // datagram_size))

"""One stream of a yamux session: what waits in either direction, and the windows.

Words: a *window* is what one side may send before the other gives *credit* back. What the
peer may still send us is *granted*; what has been read and not yet given back is *owed*.

Invariants:

- The peer cannot make a direction hold more than its window.
- Credit goes back as the reader takes bytes, in quarters of a window; a window grows while
  the reader takes at least a third of it in the smallest round trip: it may be what limits
  then, for a sender that waits for credit may have little of the window on the way at a time.
- A stream that nobody shares the way with has more on *loan*: as much as keeps both ends at
  work while each waits for its turn of the processor. It is withheld from the credit once
  somebody does, who would wait behind it.
- An end that was said is final: ``error`` and ``over`` are set once.

Source: protocol.md section 9.
"""

from __future__ import annotations

from collections import deque
from math import inf

from outrelay.lib.errors import ErrorCode, LocalProtocolError, RemoteProtocolError, TransportError
from outrelay.lib.transport.carrier import WRITE_BUFFER

INITIAL_WINDOW = 256 * 1024
"""Credit of a stream that begins, by yamux's definition."""

WINDOW = 1 << 20
"""What we grant at once: less limits one stream, more delays those beside it."""

WINDOW_MAX = 16 << 20

PARTS = 4
"""Of a window, each of which is given back as credit. In halves, a sender stands still at times."""

TURN = 0.004
"""Seconds that a busy process may wait for its turn before it can answer to credit."""

CREDIT_MAX = (1 << 32) - 1

SMALL = 16 * 1024
"""Pieces up to this size are joined while they wait: each costs as much as many bytes."""


class Incoming:
    """What the peer sends on one stream."""

    __slots__ = (
        *("_fresh", "_pieces", "_owed", "_given", "_loan"),
        *("drained", "error", "granted", "held", "hungry", "over", "window"),
    )

    def __init__(self) -> None:
        self._fresh: list[memoryview] = []
        self._pieces: deque[bytes | memoryview] = deque()
        self._owed = 0
        self._given = PARTS * ((-inf, 0),)
        self._loan = 0
        self.granted = INITIAL_WINDOW
        self.window = INITIAL_WINDOW
        self.held = 0
        self.hungry = False
        """Whether a reader found nothing and waits."""
        self.over = False
        """Whether the peer will send no more."""
        self.drained = False
        """Whether a reader was told so."""
        self.error: TransportError | None = None
        """Why reads fail."""

    def widen(self, more: int) -> None:
        """Make the window ``more`` bytes wider, for which the peer is to get credit."""
        self.window += more
        self.granted += more

    def announce(self, length: int) -> None:
        """A data frame of ``length`` bytes begins.

        Raises:
            RemoteProtocolError: The peer may not send it.
        """
        if self.over and length:
            raise RemoteProtocolError("data after the end of a stream")
        if length > self.granted:
            raise RemoteProtocolError("data beyond a stream's window")
        self.granted -= length

    def add(self, part: memoryview) -> bool:
        """Take a part of a frame, until ``settle`` only a view of it; whether it is the first."""
        if self.error is not None:
            return False
        self._fresh.append(part)
        return len(self._fresh) == 1

    def settle(self) -> int:
        """Copy what was taken, once; how many bytes those are."""
        if not self._fresh:
            return 0
        piece = b"".join(self._fresh)
        self._fresh.clear()
        if self._pieces and len(self._pieces[-1]) + len(piece) <= SMALL:
            self._pieces[-1] = b"".join((self._pieces[-1], piece))
        else:
            self._pieces.append(piece)
        self.held += len(piece)
        return len(piece)

    def read(self, limit: int) -> bytes | None:
        """Up to ``limit`` bytes; ``b""`` at the end, None when there is nothing yet.

        Raises:
            TransportError: The direction has ended early.
        """
        if self.error is not None:
            raise self.error.with_traceback(None)
        if not self._pieces:
            self.drained = self.over
            self.hungry = not self.over
            return b"" if self.over else None
        data = self._take(limit)
        self.held -= len(data)
        self._owed += len(data)
        return data

    def _take(self, limit: int) -> bytes:
        pieces = self._pieces
        first = pieces.popleft()
        size = len(first)
        if size > limit:
            view = memoryview(first)
            pieces.appendleft(view[limit:])
            return bytes(view[:limit])
        parts = [first]
        while pieces and (size := size + len(pieces[0])) <= limit:
            parts.append(pieces.popleft())
        return b"".join(parts)

    def credit(self, now: float, rtt: float, spare: int, *, alone: bool) -> int:
        """The credit to give back now: more than was taken where the window grows, else less.

        Args:
            now: Monotonic seconds.
            rtt: The smallest round trip seen, seconds.
            spare: What the window may grow by, bytes.
            alone: Whether the way is this stream's.
        """
        if self._owed * PARTS < self.window or self.over:
            return 0
        credit, self._owed = self._owed, 0
        self.granted += credit
        rate = self._rate(credit, now)
        more = min(self.window, spare, WINDOW_MAX - self.window)
        if rate * rtt * 3 < self.window:
            if not alone:
                more = -min(self._loan, credit)
            elif rate * TURN * 3 < self.window:
                more = 0
            self._loan += more
        self.widen(more)
        return credit + more

    def _rate(self, credit: int, now: float) -> float:
        """Bytes a second that the reader takes, by its last parts of a window.

        By as many as there are, because who takes all that waits at once gives all of them at
        the same moment.
        """
        (since, _), *last = self._given
        self._given = (*last, (now, credit))
        return (sum(each for _, each in last) + credit) / max(now - since, 1e-6)

    def fail(self, error: TransportError) -> None:
        """Drop what waits and what will come; reads raise ``error``."""
        if self.error is None:
            self.error = error
            self._fresh.clear()
            self._pieces.clear()
            self.held = 0


class Outgoing:
    """What we send on one stream."""

    __slots__ = (
        *("_queue", "acknowledged", "blocked", "credit", "error"),
        *("finishing", "over", "queued", "unsent"),
    )

    def __init__(self) -> None:
        self._queue: deque[bytes | memoryview] = deque()
        self.unsent = 0
        self.credit = INITIAL_WINDOW
        self.queued = False
        """Whether it waits for its turn."""
        self.blocked = False
        """Whether a writer waits for room."""
        self.finishing = False
        """Whether an end follows what is unsent."""
        self.over = False
        """Whether the peer was told that nothing will follow."""
        self.acknowledged = False
        """Whether the peer has everything, and the end."""
        self.error: TransportError | None = None
        """Why writes fail."""

    @property
    def settled(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self.acknowledged or self.error is not None

    @property
    def full(self) -> bool:
        """Whether a writer has to wait."""
        return self.unsent > WRITE_BUFFER

    @property
    def sendable(self) -> bool:
        """Whether there is something to send, and leave to."""
        if self.unsent:
            return self.credit > 0
        return self.finishing and not self.over and self.error is None

    def check(self) -> None:
        """Raise what a write meets now, if anything.

        Raises:
            TransportError: The direction has ended early.
            LocalProtocolError: It was finished.
        """
        if self.error is not None:
            raise self.error.with_traceback(None)
        if self.finishing:
            raise LocalProtocolError("the stream's direction was finished before")

    def add(self, data: bytes) -> None:
        """Queue ``data``."""
        if data:
            self._queue.append(data)
            self.unsent += len(data)

    def take(self, limit: int) -> list[bytes | memoryview]:
        """What to send in one frame, at most ``limit`` bytes and what the credit allows."""
        room = min(limit, self.credit)
        taken: list[bytes | memoryview] = []
        while room and self._queue:
            part = self._queue.popleft()
            if len(part) > room:
                view = memoryview(part)
                self._queue.appendleft(view[room:])
                part = view[:room]
            room -= len(part)
            self.unsent -= len(part)
            self.credit -= len(part)
            taken.append(part)
        return taken

    def give(self, credit: int) -> None:
        """The peer gives ``credit`` back.

        Raises:
            RemoteProtocolError: It is more than can be counted.
        """
        self.credit += credit
        if self.credit > CREDIT_MAX:
            raise RemoteProtocolError("a window of more than 32 bits")

    def trim(self, keep: int) -> None:
        """Drop what is unsent beyond ``keep`` bytes: whoever wrote it has given up."""
        while self.unsent > keep:
            last = self._queue.pop()
            self.unsent -= len(last)
            if self.unsent < keep:
                left = memoryview(last)[: keep - self.unsent]
                self._queue.append(left)
                self.unsent = keep

    def fail(self, error: TransportError) -> None:
        """Drop what is unsent; writes raise ``error``."""
        if self.error is None:
            self.error = error
            self._queue.clear()
            self.unsent = 0


class Channel:
    """One stream of a session.

    Args:
        number: yamux's id.
    """

    __slots__ = ("acked", "incoming", "number", "outgoing", "owner", "told")

    def __init__(self, number: int) -> None:
        self.number = number
        self.acked = True
        """Whether the peer knows of it; false from our SYN to its ACK."""
        self.incoming = Incoming()
        self.outgoing = Outgoing()
        self.told = ErrorCode.CANCELLED
        """What an RST of the peer's stands for."""
        self.owner: object = None
        """What the shell has for it."""

    @property
    def id(self) -> int:
        """The carrier's number of it: the dialler's are even, from 0."""
        return self.number - 1

    @property
    def over(self) -> bool:
        """Whether both directions have ended on the wire."""
        return self.incoming.over and self.outgoing.over

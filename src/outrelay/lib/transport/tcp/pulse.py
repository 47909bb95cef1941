"""Pings of a yamux session: is the peer there, how far away, and what has it received.

A ping that is answered says three things. The peer lives; so does any byte it sends, or
its kernel acknowledges, and one that shows no sign of life for the limit is dead. The round
trip took so long. And since the session is one sequence of frames, the peer has received all
that went before the ping: *receipts* are handed out for that.

Only one ping is under way at a time. The value of the first one says that we understand
notes (yamux_frames.py): for everybody else it is a number like any other.

Source: protocol.md section 9; docs/decisions 0004.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

HELLO: Final = int.from_bytes(b"ORP1", "big")
"""The value of the first ping of our own peers."""

PING_BUSY = 1.0
PING_IDLE = 3.0
"""Seconds between pings of the dialling side, with streams alive and without."""

PING_SILENT = 5.0
"""Seconds of silence after which the accepting side asks, too."""

RECEIPT_DELAY = 0.01
"""Seconds that a receipt waits for others: a ping for each would double the cost of a short
stream, and nobody's bytes wait for it."""

_VALUES: Final = 1 << 32

ReceiptT = TypeVar("ReceiptT")


class Pulse(Generic[ReceiptT]):
    """The pings of one session.

    Args:
        dialled: Whether we are the dialling side.
        limit: Seconds without a sign of life after which the peer is dead.
        now: Monotonic seconds.
    """

    def __init__(self, *, dialled: bool, limit: float, now: float) -> None:
        self._dialled = dialled
        self._limit = limit
        self._heard_at = now
        self._value = HELLO
        self._is_asking = False
        self._is_due = True  # the first one, at once
        self._asked_at = now
        self._wanted: list[ReceiptT] = []
        self._wanted_at = now
        self._under_way: list[ReceiptT] = []
        self.rtt = 0.0
        """The smallest round trip, seconds; 0 until one was measured."""

    def heard(self, now: float) -> None:
        """There was a sign of life."""
        self._heard_at = now

    def want(self, receipt: ReceiptT, now: float) -> None:
        """Hand ``receipt`` out when the peer has received what was sent up to now."""
        if not self._wanted:
            self._wanted_at = now
        self._wanted.append(receipt)

    @property
    def due(self) -> bool:
        """Whether a ping is to be sent as soon as anything can be."""
        return self._is_due and not self._is_asking

    def ask(self, now: float) -> int | None:
        """The value of a ping to send behind everything sent so far, if one is due."""
        if not self.due:
            return None
        self._is_asking = True
        self._is_due = False
        self._asked_at = now
        self._under_way, self._wanted = self._wanted, []
        return self._value

    def answered(self, value: int, now: float) -> list[ReceiptT]:
        """The receipts for which a ping's answer stands; none when nobody asked."""
        if not self._is_asking or value != self._value:
            return []
        took = now - self._asked_at
        self.rtt = min(self.rtt, took) if self.rtt else took
        self._is_asking = False
        self._value = (self._value + 1) % _VALUES
        receipts, self._under_way = self._under_way, []
        return receipts

    def withdraw(self) -> list[ReceiptT]:
        """All receipts that will not be handed out: the session has ended."""
        receipts = self._under_way + self._wanted
        self._under_way, self._wanted = [], []
        return receipts

    def deadline(self, *, busy: bool) -> float:
        """When to look again: a ping is due then, or the peer is dead."""
        dead_at = self._heard_at + self._limit
        is_settled = self._is_asking or self._is_due
        return dead_at if is_settled else min(dead_at, self._next_at(busy=busy))

    def handle_timeout(self, now: float, *, busy: bool) -> None:
        """A ping may be due now."""
        self._is_due = self._is_due or (not self._is_asking and now >= self._next_at(busy=busy))

    def is_dead(self, now: float) -> bool:
        """Whether there was no sign of life for the limit."""
        return now >= self._heard_at + self._limit

    def _next_at(self, *, busy: bool) -> float:
        """When the next ping is due."""
        if self._wanted:
            return self._wanted_at + RECEIPT_DELAY
        if self._dialled:
            return self._asked_at + min(PING_BUSY if busy else PING_IDLE, self._limit / 3)
        return max(self._heard_at, self._asked_at) + min(PING_SILENT, self._limit / 2)

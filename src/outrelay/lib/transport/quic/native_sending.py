"""What the streams of one native connection have to send and quinn-proto was not given.

quinn-proto takes no more than the peer's credit and a bound on everything it holds, and does
not tell what of it has left. So the bytes called unsent, and the bound that writers feel, are
those here; and so is the order among streams.

Words: a stream is *in line* while it may have something to hand over; whoever was served
longest ago goes first. A *turn* is what a stream hands over before the others have theirs.

Invariants: nobody in line is forgotten: a stream that is blocked comes back with ``line_up``,
which quinn-proto asks for; nothing is handed over of a stream after ``forget``.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from outrelay.lib.transport.carrier import WRITE_BUFFER
from outrelay.lib.transport.quic.engine import FLIGHT_MAX

if TYPE_CHECKING:
    from outrelay_native import NativeConnection

AHEAD = 128 * 1024
"""Bytes that quinn-proto is given beyond twice what may be on the way."""

RESERVE = 128 * 1024
"""As much again for streams with little to say: they do not wait for those with much."""

ROUND = 4 << 20
"""Bytes that everybody in line hands over before somebody has a second turn."""

TURN_MIN, TURN_MAX = 2 * 1024, 64 * 1024

MISSES = 8
"""Streams in a row of which nothing is taken after others had their turn, so that the rest stay
in line: quinn-proto is full. What it was given is acknowledged, and then they are served."""

FIRST, PRIORITIES = 1, 0x3FFFFFFF
"""What quinn-proto sends first: what was handed over first, so that a reader gets it in pieces
as large; packets of many streams in turns would make it read each stream for each of them."""

JOIN = 16 * 1024
"""What is smaller is joined up to this size: quinn-proto looks at every piece for each packet."""


class _Outgoing:
    """One stream's."""

    __slots__ = (
        *("finishing", "held", "in_line", "pieces", "served", "small", "start", "unsent", "waits"),
    )

    def __init__(self) -> None:
        self.pieces: deque[bytes] = deque()
        self.start = 0  # of the first piece: what is before it was handed over
        self.small = bytearray()  # behind the pieces
        self.unsent = 0
        self.waits = False  # a writer, for room
        self.finishing = False
        self.held = False
        self.in_line = False
        self.served = 0  # the connection's count of turns when it last handed something over

    def push(self, data: memoryview) -> None:
        self.unsent += len(data)
        if len(self.small) + len(data) <= JOIN:
            self.small += data
            return
        self._close_small()
        self.pieces.append(_as_bytes(data))

    def next_part(self, size: int) -> bytes:
        """At most so many bytes of what is first; none: nothing is left."""
        if not self.pieces:
            self._close_small()
        if not self.pieces:
            return b""
        piece, start = self.pieces[0], self.start
        return piece if not start and len(piece) <= size else piece[start : start + size]

    def was_taken(self, size: int) -> None:
        """So many bytes of the first piece were handed over."""
        self.unsent -= size
        self.start += size
        if self.start == len(self.pieces[0]):
            self.pieces.popleft()
            self.start = 0

    def _close_small(self) -> None:
        if self.small:
            self.pieces.append(bytes(self.small))
            self.small.clear()

    @property
    def is_over(self) -> bool:
        """Whether nothing has to be remembered."""
        return not (self.unsent or self.waits or self.finishing or self.held)


class Sending:
    """All streams' of one connection.

    Args:
        quic: Takes what is handed over.
    """

    __slots__ = ("_line", "_quic", "_streams", "_turns")

    def __init__(self, quic: NativeConnection) -> None:
        self._quic = quic
        self._streams: dict[int, _Outgoing] = {}
        self._line: list[tuple[int, int]] = []  # a heap
        self._turns = 0

    def write(self, stream: int, data: memoryview) -> int:
        """Queue a prefix of ``data``; returns its length."""
        outgoing = self._of(stream)
        taken = min(len(data), WRITE_BUFFER - outgoing.unsent)
        if taken < len(data):
            outgoing.waits = True
            data = data[:taken]
        if taken:
            outgoing.push(data)
        self._line_up(stream, outgoing)
        return taken

    def finish(self, stream: int) -> None:
        """End the stream after what was written."""
        outgoing = self._of(stream)
        outgoing.finishing = True
        self._line_up(stream, outgoing)

    def unsent(self, stream: int) -> int:
        """Bytes written and not handed over."""
        outgoing = self._streams.get(stream)
        return outgoing.unsent if outgoing else 0

    def forget(self, stream: int) -> None:
        """The stream sends nothing ever again."""
        self._streams.pop(stream, None)

    def hold(self, stream: int) -> None:
        """Nothing of the stream may be handed over until ``release``."""
        self._of(stream).held = True

    def release(self, stream: int) -> None:
        """The stream may be sent."""
        self._of(stream).held = False
        self.line_up(stream)

    def line_up(self, stream: int) -> None:
        """quinn-proto takes more of a stream that was blocked."""
        outgoing = self._streams.get(stream)
        if outgoing:
            self._line_up(stream, outgoing)

    def let_hold(self, *, reserve: int = 0) -> None:
        """Say how much quinn-proto may hold."""
        self._quic.let_hold(AHEAD + reserve, FLIGHT_MAX)

    def feed(self) -> list[int]:
        """Hand over what quinn-proto takes; returns streams whose writers have room again."""
        roomy: list[int] = []
        if not self._line:
            return roomy
        turn = min(max(ROUND // len(self._line), TURN_MIN), TURN_MAX)
        began, misses = self._turns, 0
        while self._line and (misses < MISSES or self._turns == began):
            stream = heappop(self._line)[1]
            outgoing = self._streams.get(stream)
            if outgoing is None or not outgoing.in_line:
                continue
            outgoing.in_line = False
            before = self._turns
            has_more = self._serve(stream, outgoing, turn)
            misses = misses + 1 if self._turns == before else 0
            if outgoing.waits and outgoing.unsent <= WRITE_BUFFER // 2:
                outgoing.waits = False
                roomy.append(stream)
            if outgoing.is_over:
                self.forget(stream)
            elif has_more:
                self._line_up(stream, outgoing)
        return roomy

    def _serve(self, stream: int, outgoing: _Outgoing, turn: int) -> bool:
        """One turn; whether there is more to hand over after those of the others."""
        before = outgoing.unsent
        is_little = before <= TURN_MIN
        self.let_hold(reserve=RESERVE if is_little else 0)
        has_waited = self._turns - outgoing.served >= len(self._line)
        priority = FIRST if is_little and has_waited else -(self._turns & PRIORITIES)
        while part := outgoing.next_part(turn):
            taken = self._quic.write(stream, part, priority)
            if taken is None:
                self.forget(stream)
                return False
            outgoing.was_taken(taken)
            turn -= taken
            if taken < len(part) or turn <= 0:
                break
        if outgoing.unsent < before:
            self._turns += 1
            outgoing.served = self._turns
        if not outgoing.unsent and outgoing.finishing:
            outgoing.finishing = False
            self._quic.finish(stream)
        return turn <= 0 and outgoing.unsent > 0

    def _of(self, stream: int) -> _Outgoing:
        outgoing = self._streams.get(stream)
        if outgoing is None:
            outgoing = self._streams[stream] = _Outgoing()
        return outgoing

    def _line_up(self, stream: int, outgoing: _Outgoing) -> None:
        if not (outgoing.in_line or outgoing.held):
            outgoing.in_line = True
            heappush(self._line, (outgoing.served, stream))


def _as_bytes(view: memoryview) -> bytes:
    """What it shows; the object behind it where that is the same and cannot change."""
    whole = view.obj
    return whole if type(whole) is bytes and len(whole) == len(view) else bytes(view)

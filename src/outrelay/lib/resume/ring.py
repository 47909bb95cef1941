"""Bytes that were sent and may have to be sent again.

Words: a *position* counts the bytes of one direction of a stream from 0. A ring holds the
bytes between ``start`` (everything before it is acknowledged) and ``end``. A *budget* is
shared by all rings of an agent; a quarter of it is the *reserve* of rings that hold little.

Invariants: a byte that is not acknowledged is never dropped; what does not fit is not taken,
and its writer waits. Rings whose peers take nothing leave the reserve to the others, which go on
with what it allows each at a time. Chunks are held as they came, not copied, but for small ones:
those are gathered, so that a byte costs little more than itself however it came. A ring at rest
costs nothing.

Source: protocol.md section 6.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

LITTLE = 64 * 1024
"""Bytes that a ring may hold of the reserve."""

SMALL = 4 * 1024
"""Chunks shorter than this are gathered."""

GATHERED = 16 * 1024
"""Bytes of a chunk of gathered ones."""


class Budget:
    """Bytes that all rings of an agent may hold together.

    Args:
        total: That many.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.held = 0

    @property
    def free(self) -> int:
        """Bytes that rings may still take."""
        return max(0, self.total - self.held)

    def free_for(self, held: int) -> int:
        """Bytes that a ring may still take which holds ``held``."""
        free = self.free
        return max(free - self.total // 4, min(free, LITTLE - held), 0)


class Ring:
    """The unacknowledged bytes of one direction.

    Args:
        most: Bytes it may hold.
        budget: Shared with other rings.
    """

    __slots__ = ("_budget", "_chunks", "_first", "_held", "_most", "_tail", "end", "start")

    def __init__(self, most: int, budget: Budget) -> None:
        self._most = most
        self._budget = budget
        self._chunks: deque[bytes | bytearray] = deque()
        self._tail: bytearray | None = None  # the last chunk, as long as it gathers
        self._first = 0  # position of the first byte of the first chunk
        self._held = 0
        self.start = 0
        """Position of the oldest byte that is not acknowledged."""
        self.end = 0
        """Position behind the newest."""

    @property
    def room(self) -> int:
        """Bytes that may be appended now."""
        return max(0, min(self._most - self._held, self._budget.free_for(self._held)))

    def append(self, chunk: bytes) -> None:
        """Hold ``chunk``, which is not longer than ``room``."""
        assert len(chunk) <= self.room
        if len(chunk) >= SMALL:
            self._chunks.append(chunk)
            self._tail = None
        elif chunk:
            self._gather(chunk)
        self.end += len(chunk)
        self._account(len(chunk))

    def _gather(self, chunk: bytes) -> None:
        if self._tail is None or len(self._tail) + len(chunk) > GATHERED:
            self._tail = bytearray()
            self._chunks.append(self._tail)
        self._tail += chunk

    def acknowledge(self, position: int) -> None:
        """Everything before ``position`` has arrived; chunks that are over are let go."""
        assert self.start <= position <= self.end
        self.start = position
        while self._chunks and self._first + len(self._chunks[0]) <= position:
            gone = len(self._chunks.popleft())
            self._first += gone
            self._account(-gone)
        if not self._chunks:
            self._tail = None

    def since(self, position: int) -> Iterator[memoryview]:
        """The bytes from ``position``, at or behind ``start``, to ``end``, in order."""
        assert self.start <= position <= self.end
        at, self._tail = self._first, None  # nothing grows that somebody looks at
        for chunk in self._chunks:
            if at + len(chunk) > position:
                yield memoryview(chunk)[max(0, position - at) :]
            at += len(chunk)

    def release(self) -> None:
        """Hold nothing any more: the stream is over."""
        self._account(-self._held)
        self._chunks.clear()
        self._tail = None
        self._first = self.start = self.end

    def _account(self, count: int) -> None:
        self._held += count
        self._budget.held += count

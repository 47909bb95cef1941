"""How large a datagram the path carries: a table of sizes, probed upwards.

Datagrams start at the first size. A probe of the next one that is acknowledged raises it;
one that is lost three times ends the search for ten minutes. When full-size packets vanish
silently, the probe timer backs off without an answer: then the size falls to the first one
and the search begins again.

Source: RFC 8899, protocol.md section 1. Pure: ``now`` is passed in.
"""

from __future__ import annotations

TRIES = 3
SEARCH_AGAIN = 600.0
LOSSES_IN_A_ROW = 2
"""Probe timeouts in a row that count as a path which drops full-size packets."""


class PathSize:
    """The datagram size of one connection.

    Args:
        sizes: Candidates in bytes, ascending; the first always works.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._sizes = sizes
        self._index = 0
        self._tries = 0
        self._probing = False
        self._search_at = 0.0

    @property
    def current(self) -> int:
        """The size in use, bytes."""
        return self._sizes[self._index]

    def next_probe(self, now: float) -> int | None:
        """A size to try now, or None: one is under way, all are known, or it is too soon."""
        if self._probing or self._index + 1 == len(self._sizes) or now < self._search_at:
            return None
        self._probing = True
        return self._sizes[self._index + 1]

    def probe_arrived(self, size: int) -> bool:
        """A probe was acknowledged; True when that raises the size."""
        self._probing = False
        self._tries = 0
        if size <= self.current:
            return False
        self._index = self._sizes.index(size)
        return True

    def probe_lost(self, size: int, now: float) -> None:
        """A probe was lost: try again, or rest."""
        self._probing = False
        if size <= self.current:
            return
        self._tries += 1
        if self._tries == TRIES:
            self._tries = 0
            self._search_at = now + SEARCH_AGAIN

    def lowered_by(self, timeouts: int) -> bool:
        """Take note of probe timeouts in a row; True when the size fell."""
        if timeouts < LOSSES_IN_A_ROW or self._index == 0:
            return False
        self._index = 0
        self._tries = 0
        return True

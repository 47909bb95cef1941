"""The memory for unacknowledged bytes: one budget for all streams of the agent.

Source: protocol.md section 6; commands.md, ``--ring-max`` and ``--ring-total``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from outrelay.lib.resume.ring import Budget, Ring


class Rings:
    """Makes rings, and tells whoever waits when one of them holds less.

    Args:
        most: Bytes one of them may hold.
        total: Bytes all of them may hold.
    """

    def __init__(self, most: int, total: int) -> None:
        self._most = most
        self._budget = Budget(total)
        self._waiting: set[asyncio.Event] = set()

    def new(self) -> Ring:
        """One more."""
        return Ring(self._most, self._budget)

    def freed(self) -> None:
        """One of them holds less than before."""
        for each in self._waiting:
            each.set()

    @contextmanager
    def waiting(self, event: asyncio.Event) -> Iterator[None]:
        """Have ``event`` set whenever a ring holds less than before."""
        self._waiting.add(event)
        try:
            yield
        finally:
            self._waiting.discard(event)

"""What peers have begun and nobody has taken yet: a listener's connections, a connection's streams.

Invariant: one task takes at a time; what waits is bounded, and gone with what it belongs to.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from outrelay.lib.errors import Closed, LocalProtocolError

T = TypeVar("T")


class Waiting(Generic[T]):
    """A bounded queue with an end.

    Args:
        what: What waits in it, for the error of a second taker.
        most: How much of it may wait.
    """

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._items: deque[T] = deque()
        self._taker: asyncio.Future[None] | None = None
        self._closed: Closed | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def full(self) -> bool:
        """Whether no more may wait."""
        return len(self._items) >= self._most

    def put(self, item: T) -> None:
        """One more waits."""
        assert not self.full
        self._items.append(item)
        wake(self._taker)

    async def take(self) -> T:
        """The one that has waited longest, as soon as there is one.

        Raises:
            Closed: Nothing will come any more.
            LocalProtocolError: Another task takes.
        """
        if self._taker is not None:
            raise LocalProtocolError(f"another task is accepting {self._what}")
        while not self._items:
            if self._closed is not None:
                raise self._closed.with_traceback(None)
            self._taker = asyncio.get_running_loop().create_future()
            try:
                await self._taker
            finally:
                self._taker = None
        return self._items.popleft()

    def end(self, closed: Closed) -> None:
        """Nothing will come any more, and what waits is nobody's business now."""
        self._closed = closed
        self._items.clear()
        wake(self._taker)


def wake(waiter: asyncio.Future[None] | None) -> None:
    """Have whoever waits go on; nobody may be waiting, or have been told already."""
    if waiter is not None and not waiter.done():
        waiter.set_result(None)

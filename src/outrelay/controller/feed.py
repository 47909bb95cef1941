"""Feeds: committed changes on their way to the watchers, in the order of their commits.

The store publishes to a feed right after each commit, before the next one begins; so a
watcher that subscribes first, reads a snapshot with its revision then, and skips what the
feed has up to that revision, misses nothing and sees nothing twice.

Invariant: a watcher holds up nobody. One whose queue is full loses its stream, not an
event: it connects again and lists again.

Source: control-plane.md, Registry and Policy, Watch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from outrelay.lib.errors import ControlError

QUEUE_LIMIT = 256

T = TypeVar("T")
Change_contra = TypeVar("Change_contra", contravariant=True)


class Publisher(Protocol[Change_contra]):
    """Takes committed changes."""

    def publish(self, change: Change_contra, /) -> None:
        """Tell those who wait for it."""


class Subscription(Generic[T]):
    """What one watcher has not taken yet.

    Iterating waits for the next change.

    Raises:
        ControlError: RESOURCE_EXHAUSTED when the watcher fell behind, UNAVAILABLE when the
            controller stops.
    """

    def __init__(self, wanted: Callable[[T], bool], limit: int) -> None:
        self._wanted = wanted
        self._limit = limit
        self._changes: deque[T] = deque()
        self._end: ControlError | None = None
        self._wake = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        while True:
            if self._end is not None:
                raise self._end
            if self._changes:
                return self._changes.popleft()
            self._wake.clear()
            await self._wake.wait()

    def offer(self, change: T) -> None:
        """Queue ``change`` if the watcher wants it and has room."""
        if self._end is not None or not self._wanted(change):
            return
        if len(self._changes) >= self._limit:
            text = f"fell more than {self._limit} changes behind; watch again"
            self.end(ControlError("RESOURCE_EXHAUSTED", text))
            return
        self._changes.append(change)
        self._wake.set()

    def end(self, reason: ControlError) -> None:
        """Let the watcher's next step raise ``reason``; what is queued is dropped."""
        self._end = reason
        self._changes.clear()
        self._wake.set()


class Feed(Generic[T]):
    """One ordered stream of changes for any number of watchers."""

    def __init__(self, limit: int = QUEUE_LIMIT) -> None:
        self._limit = limit
        self._subscriptions: set[Subscription[T]] = set()
        self._closed = False

    def publish(self, change: T) -> None:
        """Offer a committed change to every watcher."""
        for subscription in self._subscriptions:
            subscription.offer(change)

    @contextmanager
    def subscribe(self, wanted: Callable[[T], bool]) -> Iterator[Subscription[T]]:
        """The changes from now on that ``wanted`` says yes to."""
        subscription = Subscription(wanted, self._limit)
        if self._closed:
            subscription.end(_stopping())
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End every watch, now and later, with UNAVAILABLE: watchers go elsewhere or wait."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.end(_stopping())


class Mark:
    """How far something has got, for those who read the rest from the store.

    Who only has to know that there is more cannot fall behind.
    """

    def __init__(self) -> None:
        self._number = 0
        self._moved = asyncio.Event()
        self._closed = False

    def publish(self, number: int, /) -> None:
        """It has got to ``number``."""
        self._number = number
        self._wake()

    async def beyond(self, number: int) -> int:
        """How far it has got, once that is further than ``number``.

        Raises:
            ControlError: UNAVAILABLE, the controller stops.
        """
        while not self._closed:
            if self._number > number:
                return self._number
            await self._moved.wait()
        raise _stopping()

    def close(self) -> None:
        """End every wait, now and later."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


def _stopping() -> ControlError:
    return ControlError("UNAVAILABLE", "the controller is stopping")

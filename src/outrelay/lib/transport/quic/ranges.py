"""Ranges of numbers that do not touch, found by bisection.

It stands in for aioquic's own, which looks through all of them for every one that is added:
a peer that leaves thousands of gaps in what it sends would have us do nothing else.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Ranges:
    """A growing set of numbers, as ``range`` objects in ascending order."""

    __slots__ = ("_starts", "_stops")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> range:
        return range(self._starts[index], self._stops[index])

    def __iter__(self) -> Iterator[range]:
        return map(range, self._starts, self._stops)

    def add(self, start: int, stop: int) -> None:
        """Add the numbers from ``start`` up to ``stop``, which is not one of them."""
        first = bisect_left(self._stops, start)  # the first one that is not all before it
        last = bisect_right(self._starts, stop)  # behind the last one that begins no later
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def shift(self) -> range:
        """Take the first range."""
        return range(self._starts.pop(0), self._stops.pop(0))

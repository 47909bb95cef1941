"""When each connection of the native engine wants to be woken.

Deadlines move with every packet, mostly to later. A *mark* in the heap is the earliest moment
at which to look: a deadline that has moved on since is found then, and marked anew.

Invariant: a connection with a deadline has a mark that is no later.
"""

from __future__ import annotations

from heapq import heappop, heappush


class Timers:
    """The deadlines of numbered connections, in seconds of one clock."""

    def __init__(self) -> None:
        self._deadlines: dict[int, float] = {}
        self._marks: list[tuple[float, int]] = []
        self._marked: dict[int, float] = {}  # the earliest of each

    def set(self, number: int, deadline: float | None) -> None:
        """Wake it then, or not at all."""
        if deadline is None:
            self._deadlines.pop(number, None)
            return
        self._deadlines[number] = deadline
        if deadline < self._marked.get(number, float("inf")):
            self._mark(number, deadline)

    def first(self) -> float | None:
        """The earliest deadline."""
        while self._marks:
            at, number = self._marks[0]
            deadline = self._deadlines.get(number)
            if deadline == at:
                return at
            heappop(self._marks)
            if self._marked.get(number) == at:
                del self._marked[number]
                if deadline is not None:
                    self._mark(number, deadline)
        return None

    def take(self, now: float) -> list[int]:
        """Whose deadline has come; it is forgotten."""
        due: list[int] = []
        while (at := self.first()) is not None and at <= now:
            number = heappop(self._marks)[1]
            del self._deadlines[number], self._marked[number]
            due.append(number)
        return due

    def _mark(self, number: int, deadline: float) -> None:
        self._marked[number] = deadline
        heappush(self._marks, (deadline, number))

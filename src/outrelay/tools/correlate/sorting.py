"""External merge sort: more lines than memory holds, in order.

Words: a *record* is bytes that end with a newline and hold no other; records are in the order
of their bytes. A *run* is a file of records in order.

Invariants: memory is bounded by ``memory`` and a buffer for each of at most ``FAN_IN`` runs a
level. Runs are files without names, in the folder of TMPDIR: nothing is left of them
however the process ends.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Final, Self

MEMORY: Final = 48 * 2**20
"""Bytes of records, and of what Python needs to hold them."""

FAN_IN: Final = 64
"""Runs that are merged at a time."""

_OVERHEAD: Final = 33 + 8 + 15
"""Bytes a record costs beside its own: the object, its place in the list, rounding."""

_BUFFER: Final = 128 * 1024


def unnamed_file() -> IO[bytes]:
    """A temporary file that is gone when it is closed, or the process is."""
    return tempfile.TemporaryFile(buffering=_BUFFER, prefix="correlate-")


class Sorter:
    """Takes records, then gives them in order, as often as is asked; one reader at a time.

    Args:
        memory: Bytes to use before a run is written.
        fan_in: Runs that are merged at a time.

    Raises:
        OSError: From any method: there is no room for temporary files.
    """

    def __init__(self, memory: int = MEMORY, fan_in: int = FAN_IN) -> None:
        self._memory = memory
        self._fan_in = fan_in
        self._held: list[bytes] = []
        self._size = 0
        self._levels: list[list[IO[bytes]]] = []
        self._is_sorted = False
        self._files = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()
        self._held.clear()

    def add(self, record: bytes) -> None:
        """Take a record."""
        self._held.append(record)
        self._size += len(record) + _OVERHEAD
        if self._size >= self._memory:
            self._spill()

    def __iter__(self) -> Iterator[bytes]:
        """All records, in order."""
        if not self._is_sorted:
            self._held.sort()
            self._is_sorted = True
        runs = [_records(run) for level in self._levels for run in level]
        return heapq.merge(iter(self._held), *runs) if runs else iter(self._held)

    def _spill(self) -> None:
        self._held.sort()
        self._keep(self._held, level=0)
        self._held = []
        self._size = 0
        self._is_sorted = False

    def _keep(self, records: Iterator[bytes] | list[bytes], level: int) -> None:
        """Write a run; when its level is full, make one of the next level of it."""
        run = self._files.enter_context(unnamed_file())
        run.writelines(records)
        if level == len(self._levels):
            self._levels.append([])
        runs = self._levels[level]
        runs.append(run)
        if len(runs) == self._fan_in:
            self._levels[level] = []
            self._keep(heapq.merge(*map(_records, runs)), level + 1)
            for each in runs:
                each.close()


def _records(run: IO[bytes]) -> Iterator[bytes]:
    run.seek(0)
    return iter(run)

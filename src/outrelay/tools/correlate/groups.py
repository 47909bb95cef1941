"""Entries in order, and the groups they make.

A *record* of an entry is its key and its line. The key: the stream's id, the time (12 hex
digits), its number among all entries (10), the index of its file (4); so entries of one moment
stay in the order in which they were read.

Invariant: a group of whatever length costs bounded memory, and can be read more than once.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator
from typing import IO, Final

from outrelay.tools.correlate.sorting import unnamed_file

MOST_FILES: Final = 1 << 16
HELD: Final = 128
"""Entries of a group that are kept in memory."""

_ID, _FILE, _LINE = slice(0, 16), slice(38, 42), slice(42, -1)
_TS = slice(16, 28)

_id_of = operator.itemgetter(_ID)


def record(stream_id: str, ts: int, number: int, file: int, line: bytes) -> bytes:
    """The record of an entry.

    Args:
        stream_id: 16 hex digits.
        ts: Milliseconds since the epoch.
        number: Among all entries.
        file: Index of its file.
        line: Without a newline.
    """
    return b"%b%012x%010x%04x%b\n" % (stream_id.encode(), ts, number, file, line)


class Group:
    """All entries of one stream, in order of time.

    Args:
        stream_id: Whose.
        records: Theirs; they are taken at once.
    """

    def __init__(self, stream_id: str, records: Iterator[bytes]) -> None:
        self.stream_id = stream_id
        self._held = list(itertools.islice(records, HELD))
        self._more: IO[bytes] | None = None
        self.events = len(self._held)
        last = self._held[-1]
        if self.events == HELD:
            last = self._spill(records, last)
        self.first_ts, self.last_ts = int(self._held[0][_TS], 16), int(last[_TS], 16)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Of each entry the index of its file, and its line."""
        records: Iterable[bytes] = self._held
        if self._more:
            self._more.seek(0)
            records = itertools.chain(records, self._more)
        return ((int(each[_FILE], 16), each[_LINE]) for each in records)

    def close(self) -> None:
        """Free what it keeps on disk."""
        if self._more:
            self._more.close()

    def _spill(self, records: Iterator[bytes], last: bytes) -> bytes:
        """Put the rest of them into a file; the last one."""
        for last in records:
            self._more = self._more or unnamed_file()
            self._more.write(last)
            self.events += 1
        return last


def groups(records: Iterable[bytes]) -> Iterator[Group]:
    """The groups that records in order make; each lasts until the next one is asked for."""
    for key, members in itertools.groupby(records, _id_of):
        group = Group(key.decode(), members)
        try:
            yield group
        finally:
            group.close()

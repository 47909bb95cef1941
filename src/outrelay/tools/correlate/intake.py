"""Takes in all lines: entries are sorted, the rest is counted, and what speakers say is noted.

Words: a *remark* is a line of no stream that says what a process, or its connections, went through.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from outrelay.tools.correlate.groups import record
from outrelay.tools.correlate.line import (
    LATEST,
    SOURCE_FILE,
    Entry,
    Fields,
    Not,
    parse,
    speaker_of,
    text_of,
    time_of,
)
from outrelay.tools.correlate.reading import UnreadableError, lines_of
from outrelay.tools.correlate.skew import Sample
from outrelay.tools.correlate.sorting import Sorter

MOST_REMARKS: Final = 20_000
"""Remarks that are kept, the last ones."""

MOST_SPEAKERS: Final = 4096
"""Speakers that are told apart."""

REMARKS: Final = frozenset(
    {
        "agent connected",
        "agent gone",
        "connected",
        "controller is away",
        "controller is back",
        "crashed",
        "disconnected",
        "draining",
        "failed",
        "no relay connected",
        "ready",
        "refused by the relay",
        "relays died",
        "relays returned",
        "stopped",
        "stopping",
        "stopping at once",
        "the relay leaves",
    }
)


@dataclass(slots=True)
class Counts:
    """What one file was.

    Args:
        name: As it was given.
        lines: All of them, empty ones too.
        entries: Of streams, wanted or not.
        skipped: JSON objects without both fields.
        broken: No JSON objects.
        first_broken: The number of the first of these; 0: none.
        fault: Why it was not read to its end.
    """

    name: str
    lines: int = 0
    entries: int = 0
    skipped: int = 0
    broken: int = 0
    first_broken: int = 0
    fault: str = ""


@dataclass(slots=True)
class Speaker:
    """A program in a file.

    Args:
        file: The file's name.
        name: What the program is.
        index: Of its clock.
        first: When it is heard of first, milliseconds.
        last: When it is heard of last.
    """

    file: str
    name: str
    index: int
    first: int = LATEST
    last: int = 0


@dataclass(frozen=True, slots=True)
class Remark:
    """What a speaker went through."""

    speaker: Speaker
    ts: int
    fields: Fields


@dataclass(slots=True)
class Intake:
    """Takes in files.

    Args:
        sorter: Gets the entries that are wanted.
        wanted: The stream whose entries are; empty: all.
    """

    sorter: Sorter
    wanted: str = ""
    files: list[Counts] = field(default_factory=list)
    sample: Sample = field(default_factory=Sample)
    remarks: deque[Remark] = field(default_factory=lambda: deque(maxlen=MOST_REMARKS))
    _speakers: dict[tuple[str, str], Speaker] = field(default_factory=dict)
    _number: int = 0

    def read(self, name: str) -> None:
        """Take in a file; what is wrong with it is in its counts."""
        counts = Counts(name)
        self.files.append(counts)
        try:
            for line in self._lines(counts):
                found = parse(line)
                if isinstance(found, Entry):
                    counts.entries += 1
                    self._take(found, line, counts)
                elif isinstance(found, Not):
                    self._count(found, counts)
                else:
                    counts.skipped += 1
                    self._note(found, counts)
        except UnreadableError as error:
            counts.fault = str(error)

    def speakers(self) -> list[Speaker]:
        """Everybody who was heard, in the order of their clocks."""
        return sorted(self._speakers.values(), key=lambda each: each.index)

    def speaker(self, fields: Fields, name: str) -> Speaker:
        """Who wrote a line of a file."""
        file = text_of(fields, SOURCE_FILE) or name
        key = (file, speaker_of(fields))
        if key not in self._speakers and len(self._speakers) >= MOST_SPEAKERS:
            key = ("", "")
        if (found := self._speakers.get(key)) is None:
            found = self._speakers[key] = Speaker(*key, index=len(self._speakers))
        return found

    def _lines(self, counts: Counts) -> Iterator[bytes]:
        for lines in lines_of(counts.name):
            for line in lines:
                counts.lines += 1
                yield line.strip()

    def _take(self, entry: Entry, line: bytes, counts: Counts) -> None:
        speaker = self._heard(entry.fields, entry.ts, counts)
        if entry.stream_id < self.sample.bound:
            self.sample.add(entry.stream_id, speaker.index, entry.ts, speaker.name, entry.fields)
        if not self.wanted or entry.stream_id == self.wanted:
            file = len(self.files) - 1
            self.sorter.add(record(entry.stream_id, entry.ts, self._number, file, line))
            self._number += 1

    def _note(self, fields: Fields, counts: Counts) -> None:
        ts = time_of(fields)
        if ts is None:
            return
        speaker = self._heard(fields, ts, counts)
        if text_of(fields, "event") in REMARKS:
            self.remarks.append(Remark(speaker, ts, fields))

    def _heard(self, fields: Fields, ts: int, counts: Counts) -> Speaker:
        speaker = self.speaker(fields, counts.name)
        if ts < speaker.first:
            speaker.first = ts
        if ts > speaker.last:
            speaker.last = ts
        return speaker

    def _count(self, found: Not, counts: Counts) -> None:
        if found is Not.AN_OBJECT:
            counts.broken += 1
            counts.first_broken = counts.first_broken or counts.lines

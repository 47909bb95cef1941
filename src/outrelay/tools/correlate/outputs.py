"""What correlate writes: lines (the default), a table, JSON, timelines.

Source: commands.md, "correlate".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Final

import orjson

from outrelay.cli.output import Column, Lines, moment
from outrelay.tools.correlate.groups import Group, groups
from outrelay.tools.correlate.intake import Intake
from outrelay.tools.correlate.line import SOURCE_FILE, Fields, text_of
from outrelay.tools.correlate.skew import Skew, estimate
from outrelay.tools.correlate.sorting import Sorter
from outrelay.tools.correlate.story import RELAY, Story, story_of
from outrelay.tools.correlate.timeline import Timeline, duration, skew_text, terminal
from outrelay.tools.correlate.verdict import verdict_of

LINES, TABLE, JSON, TIMELINE = FORMATS = ("lines", "table", "json", "timeline")

_encode = json.JSONEncoder(separators=(",", ":")).encode
"""As services write their lines: what a peer has said does nothing to a terminal."""

_KEY: Final = json.dumps(SOURCE_FILE).encode()
_AGENTS: Final = ("agent", "consumer", "provider", "caller", "peer", "not_read_by")
"""Fields that name an agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which streams are shown.

    Args:
        since: Those to which something happened at or after it, milliseconds since the epoch.
        agent: Those of which a line names an agent whose URI holds this; empty: all.
    """

    since: int = 0
    agent: str = ""

    def takes(self, group: Group) -> bool:
        """Whether a stream is shown."""
        if group.last_ts < self.since:
            return False
        if not self.agent:
            return True
        return any(self._names_it(line) for _, line in group)

    def _names_it(self, line: bytes) -> bool:
        if self.agent.encode() not in line:
            return False
        fields = orjson.loads(line)
        return any(self.agent in text_of(fields, name) for name in _AGENTS)


class Output:
    """Writes what was taken in.

    Args:
        intake: That; all files are read.
        chosen: Which streams.
        out: Where to; what is drawn or a table goes to standard output.
    """

    def __init__(self, intake: Intake, chosen: Filter, out: IO[bytes]) -> None:
        self._intake = intake
        self._chosen = chosen
        self._out = out
        self._ends = [
            b", %b: %b}" % (_KEY, json.dumps(counts.name).encode()) for counts in intake.files
        ]
        self.found = 0
        """Streams that were shown."""

    def write(self, form: str) -> None:
        """Write all streams in one of ``FORMATS``."""
        write = {LINES: self._lines, TABLE: self._table, JSON: self._json, TIMELINE: self._drawn}
        write[form]()
        sys.stdout.flush()

    def notes(self) -> Iterator[str]:
        """What a person should know beside it, a line each."""
        for counts in self._intake.files:
            said = []
            if counts.skipped:
                said.append(f"{counts.skipped} lines without both stream_id and ts_unix_ms skipped")
            if counts.broken:
                said.append(
                    f"{counts.broken} broken lines, the first is line {counts.first_broken}"
                )
            if counts.fault:
                said.append(counts.fault)
            if said:
                yield f"{counts.name}: {'; '.join(said)}"
        for speaker in self._intake.speakers():
            if text := skew_text(speaker.file, speaker.index, self.skew):
                assert self.skew.reference is not None
                reference = self._intake.speakers()[self.skew.reference]
                yield f"clock: {text}, beside {reference.file}"

    @cached_property
    def skew(self) -> Skew:
        """How far the clocks are apart."""
        relays = [each.index for each in self._intake.speakers() if each.name == RELAY]
        return estimate(self._intake.sample, relays)

    # ---- formats -------------------------------------------------------------------------

    def _groups(self) -> Iterator[Group]:
        for group in groups(self._intake.sorter):
            if self._chosen.takes(group):
                self.found += 1
                yield group

    def _lines(self) -> None:
        for group in self._groups():
            self._out.write(
                b"# stream_id=%b events=%d\n" % (group.stream_id.encode(), group.events)
            )
            self._out.writelines(self._labelled(file, line) + b"\n" for file, line in group)

    def _json(self) -> None:
        for group in self._groups():
            head = _encode(_row(group, self._story(group)))
            self._out.write(head[:-1].encode() + b',"lines":[')
            between = b""
            for file, line in group:
                self._out.write(between + self._labelled(file, line))
                between = b","
            self._out.write(b"]}\n")

    def _table(self) -> None:
        with Sorter() as rows:
            for group in self._groups():
                row = orjson.dumps(_row(group, self._story(group)))
                rows.add(b"%012x%b\n" % (group.first_ts, row))
            table = Lines(_COLUMNS)
            for each in rows:
                table.show(orjson.loads(each[12:]))

    def _drawn(self) -> None:
        timeline = Timeline(self._intake.remarks, self.skew, terminal())
        for number, group in enumerate(self._groups()):
            timeline.draw(self._story(group), is_first=not number)

    def _story(self, group: Group) -> Story:
        entries = (
            (self._intake.speaker(fields, self._intake.files[file].name), _ts(fields), fields)
            for file, line in group
            for fields in [orjson.loads(line)]
        )
        return story_of(group.stream_id, entries, self.skew)

    def _labelled(self, file: int, line: bytes) -> bytes:
        """A line with its file; one that has it already stays as it is."""
        if _KEY in line and SOURCE_FILE in orjson.loads(line):
            return line
        return line[:-1] + self._ends[file]


def _ts(fields: Fields) -> int:
    ts = fields["ts_unix_ms"]
    assert isinstance(ts, int)
    return ts


def _row(group: Group, story: Story) -> Mapping[str, object]:
    """What is told of a stream in one line."""
    verdict = verdict_of(story)
    return {
        "stream_id": group.stream_id,
        "events": group.events,
        "first_unix_ms": group.first_ts,
        "last_unix_ms": group.last_ts,
        "service": story.names.get("service", ""),
        "consumer": story.names.get("consumer", ""),
        "provider": story.names.get("provider", ""),
        "seen_by": list(dict.fromkeys(lane.role for lane in story.lanes)),
        "result": verdict.kind,
        "stopped_at": verdict.where,
        "reason": verdict.reason,
    }


def _stopped(row: Mapping[str, object]) -> str:
    return f"{row['result']}{', ' if row['stopped_at'] else ''}{row['stopped_at']}"


_COLUMNS: Final[Sequence[Column[Mapping[str, object]]]] = (
    Column(
        title="BEGAN", text=lambda row: moment(_number(row, "first_unix_ms"), year=False), width=14
    ),
    Column(title="STREAM", text=lambda row: str(row["stream_id"]), width=16),
    Column(
        title="LASTED",
        text=lambda row: duration(_number(row, "last_unix_ms") - _number(row, "first_unix_ms")),
        width=8,
    ),
    Column(title="EVENTS", text=lambda row: str(row["events"]), width=6, least=100),
    Column(title="SERVICE", text=lambda row: str(row["service"]), width=12),
    Column(title="STOPPED", text=_stopped, width=17),
    Column(title="REASON", text=lambda row: str(row["reason"])),
)


def _number(row: Mapping[str, object], name: str) -> int:
    number = row[name]
    assert isinstance(number, int)
    return number


def any_fault(intake: Intake) -> bool:
    """Whether a file was not read to its end."""
    return any(counts.fault for counts in intake.files)

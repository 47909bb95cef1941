"""The rows of a timeline, and the rails beside them.

A *row* is a beat, a remark or the end of a log; a *rail* is what is drawn of a lane.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from outrelay.cli.output import printable, size
from outrelay.tools.correlate.line import Fields
from outrelay.tools.correlate.story import (
    AGENT,
    AUDIT,
    CONSUMER,
    CONTROLLER,
    PROVIDER,
    RELAY,
    Beat,
    Lane,
    Story,
)
from outrelay.tools.correlate.verdict import Gap

MOST_REMARKS: Final = 40
"""Remarks that are drawn."""

_RESUMED: Final = ("stream resumed", "resume")
LETTERS: Final = {
    CONSUMER: "C", RELAY: "R", PROVIDER: "P", AGENT: "?", CONTROLLER: "O", AUDIT: "A"
}  # fmt: skip
COLOURS: Final = {
    CONSUMER: "cyan",
    RELAY: "magenta",
    PROVIDER: "green",
    AGENT: "yellow",
    CONTROLLER: "blue",
    AUDIT: "blue",
}
_UNTOLD: Final = frozenset(
    {
        *("ts_unix_ms", "level", "component", "event", "stream_id", "_source_file"),
        *("side", "service", "target", "method", "peer", "consumer", "provider", "caller"),
        *("tenant", "agent", "session", "relay_id", "event_id", "hint", "logger"),
        *("code", "reason", "error", "times", "bytes_up", "bytes_down", "decision", "duration_ms"),
    }
)
"""Fields that are not told, or in words of their own."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What rails are made of."""

    event: str
    end: str
    failure: str
    resumed: str
    remark: str
    rail: str
    cut: str
    up: str
    down: str
    space: str


DRAWN: Final = Marks("●", "✓", "✗", "↻", "○", "│", "┴", "↑", "↓", "\u00a0")
TYPED: Final = Marks("*", "+", "x", "@", "o", "|", "^", "up ", "down ", " ")
"""For terminals that know only ASCII."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row: a beat, a remark, or the end of a log.

    Args:
        at: Milliseconds by the reference's clock.
        lane: Whose.
        beat: What is told; None: the log ends.
        is_faint: It is a remark.
        is_last: The rail ends here.
        times: How often it was said.
    """

    at: float
    lane: Lane
    beat: Beat | None = None
    is_faint: bool = False
    is_last: bool = False
    times: int = 1

    @property
    def event(self) -> Text:
        """What happened."""
        if self.beat is None:
            return Text("last line of this log", "yellow")
        if self.is_faint:
            return Text(said_in(self.beat), "dim")
        return Text(said_in(self.beat), "bold red" if self.beat.is_failure else "bold")


def rows_of(story: Story, remarks: Sequence[Beat], gaps: Sequence[Gap]) -> list[Row]:
    """All rows, in order of time."""
    beats = story.beats
    last = {id(beat.lane): beat for beat in beats}
    rows = [
        Row(
            at=each.at,
            lane=each.lane,
            beat=each,
            is_last=each.lane.is_over and last[id(each.lane)] is each,
        )
        for each in beats
    ]
    rows += _gathered(remarks)[:MOST_REMARKS]
    rows += [
        Row(at=gap.cut, lane=gap.lane, is_last=True)
        for gap in gaps
        if gap.cut is not None and gap.lane
    ]
    return sorted(rows, key=lambda row: row.at)


def _gathered(remarks: Sequence[Beat]) -> list[Row]:
    """Remarks; what a speaker says again and again is one."""
    rows: dict[tuple[int, str, str], Row] = {}
    for remark in remarks:
        key = (id(remark.lane), remark.event, remark.reason)
        first = rows.get(key)
        times = first.times + 1 if first else 1
        at, beat = (first.at, first.beat) if first else (remark.at, remark)
        rows[key] = Row(at=at, lane=remark.lane, beat=beat, is_faint=True, times=times)
    return list(rows.values())


class Rails:
    """Which rails are there at a moment."""

    def __init__(self, lanes: Sequence[Lane], marks: Marks) -> None:
        self._lanes = lanes
        self._marks = marks
        self._alive: set[int] = set()

    def heading(self) -> Text:
        """The letters above them."""
        return self._drawn({id(lane): LETTERS[lane.role] for lane in self._lanes})

    def draw(self, row: Row) -> tuple[Text, Text]:
        """The rails of a row, and those below it."""
        if not row.is_faint:
            self._alive.add(id(row.lane))
        first = self._drawn({id(row.lane): self._mark(row)})
        if row.is_last:
            self._alive.discard(id(row.lane))
        return first, self._drawn({})

    def _mark(self, row: Row) -> str:
        if row.beat is None:
            return self._marks.cut
        if row.is_faint:
            return self._marks.remark
        if row.beat.is_failure:
            return self._marks.failure
        if row.beat.event in ("stream ended", "close"):
            return self._marks.end
        return self._marks.resumed if row.beat.event in _RESUMED else self._marks.event

    def _drawn(self, marks: Mapping[int, str]) -> Text:
        text = Text()
        for lane in self._lanes:
            rail = self._marks.rail if id(lane) in self._alive else " "
            mark = marks.get(id(lane), rail)
            is_bad = mark == self._marks.failure
            text.append(mark, style="bold red" if is_bad else COLOURS[lane.role])
            text.append(" ")
        return text.append(" ")


def said_in(beat: Beat) -> str:
    """What a row calls a beat."""
    return printable(f"audit: {beat.event}" if beat.lane.role == AUDIT else beat.event)


def details_of(row: Row, marks: Marks) -> Iterator[str]:
    """What a line says beside its event."""
    if row.beat is None:
        return
    beat, fields = row.beat, row.beat.fields
    if row.times > 1:
        yield f"{row.times} times"
    if beat.event == "backend failed":
        yield printable(str(fields.get("target", "")))
    if said := " ".join(str(part) for part in (fields.get("code"), beat.reason) if part):
        yield printable(said)
    up, down = fields.get("bytes_up"), fields.get("bytes_down")
    if isinstance(up, int) and isinstance(down, int) and beat.event in ("stream ended", "close"):
        yield " ".join(
            mark + size(count).replace(" ", marks.space)
            for mark, count in ((marks.up, up), (marks.down, down))
        )
    if "times" in fields:
        yield f"one line for {fields['times']} streams, up to a second late"
    yield from _others(fields)


def _others(fields: Fields) -> Iterator[str]:
    for name, value in fields.items():
        if name not in _UNTOLD and isinstance(value, str | int | float) and value != "":
            yield printable(f"{name} {value}")

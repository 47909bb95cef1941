"""The timeline of a stream, drawn for a terminal: a rail for each lane, time going down.

      time  C R P
      0 ms  ●      opening stream
     +2 ms  │ ●    asking a provider
     +3 ms  │ │ ✗  backend failed           cannot be reached: Connection refused

A rail begins with the first that its speaker says of the stream and ends with the last; where a
lane has no end it goes on to the bottom, or to where the log ends.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.text import Text

from outrelay.cli.output import printable, size
from outrelay.tools.correlate.intake import Remark
from outrelay.tools.correlate.line import Fields
from outrelay.tools.correlate.skew import Skew
from outrelay.tools.correlate.story import (
    AGENT,
    AUDIT,
    CONSUMER,
    CONTROLLER,
    FINISHED,
    PROVIDER,
    RELAY,
    Beat,
    Lane,
    Story,
    remarks_during,
)
from outrelay.tools.correlate.verdict import OPEN, Gap, Verdict, gaps_of, verdict_of

MOST_REMARKS: Final = 40
"""Remarks that are drawn."""

LEAST_WIDTH: Final = 60

_TIME: Final = 10
_WIDE: Final = 100
_AGAIN: Final = "the same"
_RESUMED: Final = ("stream resumed", "resume")
_LETTERS: Final = {
    CONSUMER: "C", RELAY: "R", PROVIDER: "P", AGENT: "?", CONTROLLER: "O", AUDIT: "A"
}  # fmt: skip
_COLOURS: Final = {
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


_DRAWN: Final = Marks("●", "✓", "✗", "↻", "○", "│", "┴", "↑", "↓", "\u00a0")
_TYPED: Final = Marks("*", "+", "x", "@", "o", "|", "^", "up ", "down ", " ")
"""For terminals that know only ASCII."""


class Timeline:
    """Draws stories.

    Args:
        remarks: What speakers went through.
        skew: By how much clocks are wrong.
        console: Where to draw.
    """

    def __init__(self, remarks: Iterable[Remark], skew: Skew, console: Console) -> None:
        self._remarks = list(remarks)
        self._skew = skew
        self._console = console
        is_unicode = console.encoding.startswith("utf")
        self._marks = _DRAWN if is_unicode else _TYPED
        self._width = max(console.width, LEAST_WIDTH)

    def draw(self, story: Story, *, is_first: bool = True) -> None:
        """Draw a stream: who, when, what, and where it stopped."""
        if not is_first:
            self._print(Text())
        verdict = verdict_of(story)
        gaps = list(gaps_of(story, verdict, self._remarks, self._skew))
        remarks = remarks_during(story, self._remarks, self._skew)
        self._head(story)
        self._rows(story, remarks, gaps)
        self._foot(story, verdict, gaps)

    # ---- head ----------------------------------------------------------------------------

    def _head(self, story: Story) -> None:
        beats = story.beats
        self._print(Text(f"stream {story.stream_id}", style="bold"))
        for name in ("service", CONSUMER, PROVIDER):
            if value := story.names.get(name):
                self._fact(name, value)
        began = datetime.fromtimestamp(beats[0].at / 1000, tz=UTC)
        lasted = duration(beats[-1].at - beats[0].at)
        events = "1 event" if story.events == 1 else f"{story.events} events"
        self._fact(
            "began",
            f"{began:%Y-%m-%d %H:%M:%S}.{began.microsecond // 1000:03} UTC; {events} in {lasted}",
        )
        for text in _clocks(story, self._skew):
            self._fact("clock", text)
        self._print(Text())

    def _fact(self, name: str, value: str, style: str = "") -> None:
        self._wrapped(_faint(f"  {name:<10}"), Text(printable(value), style=style))

    # ---- rows ----------------------------------------------------------------------------

    def _rows(self, story: Story, remarks: Sequence[Beat], gaps: Sequence[Gap]) -> None:
        rails = _Rails(story.lanes, self._marks)
        for lane in story.lanes:
            letter = Text(_LETTERS[lane.role], style=f"bold {_COLOURS[lane.role]}")
            head = Text("  ") + letter + Text(f" {_title(lane):<9}")
            self._wrapped(head, Text(printable(lane.speaker.file), "dim"))
        self._print(Text())
        self._print(_faint(f"{'time':>{_TIME}}  ") + rails.heading())
        begin, said = story.beats[0].at, ""
        for row in _rows(story, remarks, gaps):
            event, detail = row.event, "; ".join(_details(row, self._marks))
            self._row(
                row.at - begin,
                rails.draw(row),
                event,
                _AGAIN if said and detail == said else detail,
            )
            said = detail if detail and not row.is_faint else said
        if story.left_out:
            self._print(Text(f"{'':{_TIME}}  {story.left_out} more events are not drawn", "dim"))

    def _row(self, since: float, rails: tuple[Text, Text], event: Text, detail: str) -> None:
        room = 24 if self._width < _WIDE else 28
        first, following = rails
        head = _faint(f"{_since(since):>{_TIME}}  ") + first + event
        head.append(" " * max(1, _TIME + 2 + len(first.plain) + room - len(head.plain)))
        below = Text(" " * (_TIME + 2)) + following
        below.append(" " * (len(head.plain) - len(below.plain)))
        self._wrapped(head, Text(detail), below)

    # ---- foot ----------------------------------------------------------------------------

    def _foot(self, story: Story, verdict: Verdict, gaps: Sequence[Gap]) -> None:
        self._print(Text())
        last = story.beats[-1]
        if verdict.kind == FINISHED:
            self._fact("finished", "both directions ended as the applications wanted", "green")
        elif verdict.kind == OPEN:
            self._fact("open", "no line says that it has ended", "yellow")
        else:
            self._fact(
                "stopped", f"at the {verdict.where}, {verdict.kind}: {verdict.reason}", "bold red"
            )
        said = f"{_said(last)} ({last.lane.role}, {_since(last.at - story.beats[0].at).strip()})"
        self._fact("last", said)
        for gap in gaps:
            self._fact("missing", f"{gap.who} {gap.text}", "yellow")
        if verdict.hint:
            self._fact("next", verdict.hint)

    # ---- the terminal --------------------------------------------------------------------

    def _wrapped(self, head: Text, text: Text, following: Text | None = None) -> None:
        """Print ``text`` behind ``head``, and what does not fit below it."""
        indent = following if following is not None else Text(" " * len(head.plain))
        room = max(16, self._width - len(head.plain))
        parts = textwrap.wrap(text.plain, room, break_on_hyphens=False) or [""]
        style = text.style
        for part in parts:
            self._print(head + Text(part, style))
            head = indent

    def _print(self, text: Text) -> None:
        text.rstrip()
        self._console.print(text, soft_wrap=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
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
            return Text(_said(self.beat), "dim")
        return Text(_said(self.beat), "bold red" if self.beat.is_failure else "bold")


def _rows(story: Story, remarks: Sequence[Beat], gaps: Sequence[Gap]) -> list[_Row]:
    """All rows, in order of time."""
    beats = story.beats
    last = {id(beat.lane): beat for beat in beats}
    rows = [
        _Row(
            at=each.at,
            lane=each.lane,
            beat=each,
            is_last=each.lane.is_over and last[id(each.lane)] is each,
        )
        for each in beats
    ]
    rows += _gathered(remarks)[:MOST_REMARKS]
    rows += [
        _Row(at=gap.cut, lane=gap.lane, is_last=True)
        for gap in gaps
        if gap.cut is not None and gap.lane
    ]
    return sorted(rows, key=lambda row: row.at)


def _gathered(remarks: Sequence[Beat]) -> list[_Row]:
    """Remarks; what a speaker says again and again is one."""
    rows: dict[tuple[int, str, str], _Row] = {}
    for remark in remarks:
        key = (id(remark.lane), remark.event, remark.reason)
        first = rows.get(key)
        times = first.times + 1 if first else 1
        at, beat = (first.at, first.beat) if first else (remark.at, remark)
        rows[key] = _Row(at=at, lane=remark.lane, beat=beat, is_faint=True, times=times)
    return list(rows.values())


class _Rails:
    """Which rails are there at a moment."""

    def __init__(self, lanes: Sequence[Lane], marks: Marks) -> None:
        self._lanes = lanes
        self._marks = marks
        self._alive: set[int] = set()

    def heading(self) -> Text:
        """The letters above them."""
        return self._drawn({id(lane): _LETTERS[lane.role] for lane in self._lanes})

    def draw(self, row: _Row) -> tuple[Text, Text]:
        """The rails of a row, and those below it."""
        if not row.is_faint:
            self._alive.add(id(row.lane))
        first = self._drawn({id(row.lane): self._mark(row)})
        if row.is_last:
            self._alive.discard(id(row.lane))
        return first, self._drawn({})

    def _mark(self, row: _Row) -> str:
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
            text.append(mark, style="bold red" if is_bad else _COLOURS[lane.role])
            text.append(" ")
        return text.append(" ")


def _faint(text: str) -> Text:
    """Text that others are put behind, which are not faint."""
    return Text.assemble((text, "dim"))


def _title(lane: Lane) -> str:
    return lane.speaker.name if lane.role == AUDIT else lane.role


def _said(beat: Beat) -> str:
    return printable(f"audit: {beat.event}" if beat.lane.role == AUDIT else beat.event)


def _details(row: _Row, marks: Marks) -> Iterator[str]:
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


def _clocks(story: Story, skew: Skew) -> Iterator[str]:
    """What is known of the clocks of a story."""
    for speaker in dict.fromkeys(id(lane.speaker) for lane in story.lanes):
        lane = next(lane for lane in story.lanes if id(lane.speaker) == speaker)
        if text := skew_text(lane.speaker.file, lane.speaker.index, skew):
            yield f"{text}, corrected here" if skew.offset(lane.speaker.index) else text


def skew_text(name: str, clock: int, skew: Skew) -> str:
    """What is known of a clock, in words; empty when it shows what the reference does."""
    found = skew.clocks.get(clock)
    if found is None or clock == skew.reference:
        return ""
    if not found.is_steady:
        return f"{name} was set, or runs at another speed: its times cannot be compared"
    if not found.offset:
        return ""
    error = f" ±{duration(found.error)}" if found.error is not None else " at least"
    ahead = "ahead" if found.offset > 0 else "behind"
    streams = "1 stream" if found.streams == 1 else f"{found.streams} streams"
    return f"{name} is {duration(abs(found.offset))}{error} {ahead} ({streams})"


def _since(ms: float) -> str:
    return f"+{duration(ms)}" if round(ms) else "0 ms"


def duration(ms: float) -> str:
    """A time span as people read it."""
    if ms < 1000:
        return f"{max(ms, 0):.0f} ms"
    if ms < 100_000:
        return f"{ms / 1000:.3f} s"
    seconds = round(ms / 1000)
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"


def terminal() -> Console:
    """Standard output; 100 characters wide where it is no terminal and COLUMNS is not set."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 100
    return console

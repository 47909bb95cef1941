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


_DRAWN: Final = Marks("●", "✓", "✗", "↻", "○", "│", "┴", "↑", "↓")
_TYPED: Final = Marks("*", "+", "x", "@", "o", "|", "^", "up ", "down ")
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
        self._wrapped(Text(f"  {name:<10}", style="dim"), Text(printable(value), style=style))

    # ---- rows ----------------------------------------------------------------------------

    def _rows(self, story: Story, remarks: Sequence[Beat], gaps: Sequence[Gap]) -> None:
        rails = _Rails(story.lanes, self._marks)
        for lane in story.lanes:
            letter = Text(_LETTERS[lane.role], style=f"bold {_COLOURS[lane.role]}")
            self._wrapped(
                Text("  ") + letter + Text(f" {_title(lane):<9}"), Text(lane.speaker.file, "dim")
            )
        self._print(Text())
        self._print(Text(" " * (_TIME - 4) + "time  ", style="dim") + rails.heading())
        beats, begin = story.beats, story.beats[0].at
        cuts = [gap for gap in gaps if gap.cut is not None and gap.lane]
        rows = sorted(
            [
                *((beat.at, 0, beat) for beat in beats),
                *((remark.at, 1, remark) for remark in remarks[:MOST_REMARKS]),
                *((gap.cut or 0.0, 2, gap) for gap in cuts),
            ],
            key=lambda row: row[:2],
        )
        last = {id(beat.lane): beat for beat in beats}
        for at, kind, what in rows:
            if isinstance(what, Gap):
                assert what.lane
                self._row(
                    at - begin, rails.cut(what.lane), Text("the log ends here", "yellow"), Text()
                )
            elif kind == 1:
                self._row(
                    at - begin, rails.remark(what.lane), Text(what.event, "dim"), self._detail(what)
                )
            else:
                is_last = last[id(what.lane)] is what and what.lane.is_over
                style = "bold red" if what.is_failure else "bold"
                rail = rails.beat(what, is_last=is_last)
                self._row(at - begin, rail, Text(_said(what), style), self._detail(what))
        if story.left_out:
            self._print(Text(f"{'':{_TIME}}  {story.left_out} more events are not drawn", "dim"))

    def _row(self, since: float, rails: tuple[Text, Text], event: Text, detail: Text) -> None:
        time = f"{_since(since):>{_TIME}}  "
        first, following = rails
        room = max(22, min(26, (self._width - _TIME - 2 - len(first.plain)) // 3))
        event.pad_right(max(1, room - len(event.plain)))
        head = Text(time, style="dim") + first + event
        tail = Text(" " * len(time)) + following + Text(" " * room)
        self._wrapped(head, detail, tail)

    def _detail(self, beat: Beat) -> Text:
        return Text(printable("; ".join(_details(beat, self._marks))))

    # ---- foot ----------------------------------------------------------------------------

    def _foot(self, story: Story, verdict: Verdict, gaps: Sequence[Gap]) -> None:
        self._print(Text())
        last = story.beats[-1]
        if verdict.kind == FINISHED:
            self._fact("finished", "both directions ended as the applications wanted", "green")
        elif verdict.kind == OPEN:
            self._fact("open", "no line says that it has ended", "yellow")
        else:
            place = (
                f"{verdict.where}, {verdict.kind}: {verdict.reason}"
                if verdict.reason
                else str(verdict)
            )
            self._fact("stopped", place, "bold red")
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


class _Rails:
    """Which rails are there at a moment."""

    def __init__(self, lanes: Sequence[Lane], marks: Marks) -> None:
        self._lanes = lanes
        self._marks = marks
        self._alive: set[int] = set()

    def heading(self) -> Text:
        """The letters above them."""
        return self._drawn({id(lane): _LETTERS[lane.role] for lane in self._lanes})

    def beat(self, beat: Beat, *, is_last: bool) -> tuple[Text, Text]:
        """The rails of a beat, and those below it."""
        mark = self._marks.event
        if beat.is_failure:
            mark = self._marks.failure
        elif beat.event in ("stream ended", "close"):
            mark = self._marks.end
        elif beat.event in ("stream resumed", "resume"):
            mark = self._marks.resumed
        self._alive.add(id(beat.lane))
        first = self._drawn({id(beat.lane): mark})
        if is_last:
            self._alive.discard(id(beat.lane))
        return first, self._drawn({})

    def remark(self, lane: Lane) -> tuple[Text, Text]:
        """The rails of a remark."""
        return self._drawn({id(lane): self._marks.remark}), self._drawn({})

    def cut(self, lane: Lane) -> tuple[Text, Text]:
        """The rails where a log ends."""
        first = self._drawn({id(lane): self._marks.cut})
        self._alive.discard(id(lane))
        return first, self._drawn({})

    def _drawn(self, marks: Mapping[int, str]) -> Text:
        text = Text()
        for lane in self._lanes:
            rail = self._marks.rail if id(lane) in self._alive else " "
            mark = marks.get(id(lane), rail)
            style = _COLOURS[lane.role]
            if mark == self._marks.failure:
                style = "bold red"
            text.append(mark, style=style)
            text.append(" ")
        return text.append(" ")


def _title(lane: Lane) -> str:
    return lane.speaker.name if lane.role == AUDIT else lane.role


def _said(beat: Beat) -> str:
    return printable(f"audit: {beat.event}" if beat.lane.role == AUDIT else beat.event)


def _details(beat: Beat, marks: Marks) -> Iterator[str]:
    """What a line says beside its event."""
    fields = beat.fields
    if beat.event == "backend failed":
        yield str(fields.get("target", ""))
    code, reason = fields.get("code"), beat.reason
    if said := " ".join(str(part) for part in (code, reason) if part):
        yield said
    up, down = fields.get("bytes_up"), fields.get("bytes_down")
    if isinstance(up, int) and isinstance(down, int) and beat.event in ("stream ended", "close"):
        yield f"{marks.up}{size(up)} {marks.down}{size(down)}"
    if "times" in fields:
        yield f"told once of {fields['times']} streams, up to a second late"
    yield from _others(fields)


def _others(fields: Fields) -> Iterator[str]:
    for name, value in fields.items():
        if name not in _UNTOLD and isinstance(value, str | int | float) and value != "":
            yield f"{name} {value}"


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

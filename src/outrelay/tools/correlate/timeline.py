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
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.text import Text

from outrelay.cli.output import printable
from outrelay.tools.correlate.intake import Remark
from outrelay.tools.correlate.rows import (
    COLOURS,
    DRAWN,
    LETTERS,
    TYPED,
    Rails,
    details_of,
    rows_of,
    said_in,
)
from outrelay.tools.correlate.skew import Skew
from outrelay.tools.correlate.story import (
    AUDIT,
    CONSUMER,
    FINISHED,
    PROVIDER,
    Beat,
    Lane,
    Story,
    remarks_during,
)
from outrelay.tools.correlate.verdict import OPEN, Gap, Verdict, gaps_of, verdict_of

LEAST_WIDTH: Final = 60

_TIME: Final = 10
_WIDE: Final = 100
_AGAIN: Final = "the same"


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
        self._marks = DRAWN if is_unicode else TYPED
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
        rails = Rails(story.lanes, self._marks)
        for lane in story.lanes:
            letter = Text(LETTERS[lane.role], style=f"bold {COLOURS[lane.role]}")
            head = Text("  ") + letter + Text(f" {_title(lane):<9}")
            self._wrapped(head, Text(printable(lane.speaker.file), "dim"))
        self._print(Text())
        self._print(_faint(f"{'time':>{_TIME}}  ") + rails.heading())
        begin, said = story.beats[0].at, ""
        for row in rows_of(story, remarks, gaps):
            event, detail = row.event, "; ".join(details_of(row, self._marks))
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
        said = f"{said_in(last)} ({last.lane.role}, {_since(last.at - story.beats[0].at).strip()})"
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


def _faint(text: str) -> Text:
    """Text that others are put behind, which are not faint."""
    return Text.assemble((text, "dim"))


def _title(lane: Lane) -> str:
    return lane.speaker.name if lane.role == AUDIT else lane.role


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

"""Tables for people, and how they are told of times and sizes.

What peers sent is shown without the characters that move a terminal's cursor. Where the
output is no terminal a row is one line, however long.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Generic, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

SPARE, MEDIUM, WIDE = 1, 100, 120
"""Characters of a terminal's width from which there is room for more columns."""

WRAPPED = 24
"""Characters that a text which wraps is given before columns are left out for it."""

GAP = 2
"""Characters between two columns."""

ENDLESS = 10_000
"""The width of what is no terminal."""

RowT = TypeVar("RowT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column(Generic[RowT]):
    """One column of a table.

    Args:
        title: Its head.
        text: What it shows of a row.
        whole: Never wrapped: made to be copied.
        least: Characters of a terminal's width below which it is left out. Above 0 it is left
            out as well where the table would not fit otherwise, the largest first.
        width: Characters to keep free for it where rows are shown one by one.
        short: What it shows where the table would not fit otherwise.
    """

    title: str
    text: Callable[[RowT], str]
    whole: bool = False
    least: int = 0
    width: int = 0
    short: Callable[[RowT], str] | None = None

    def takes(self, rows: Sequence[RowT]) -> int:
        """Characters it needs for ``rows``."""
        widest = max(cell_len(text) for text in (self.title, *map(self.told, rows)))
        return widest if self.whole else min(widest, WRAPPED)

    def told(self, row: RowT) -> str:
        """What is printed of a row."""
        return printable(self.text(row))


def print_table(columns: Sequence[Column[RowT]], rows: Iterable[RowT]) -> None:
    """Print rows as a table; columns without any text are left out."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = ENDLESS
    rows = list(rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    shown = _fitting([each for each in columns if _is_shown(each, rows, console)], rows, console)
    for column in shown:
        table.add_column(column.title, no_wrap=column.whole, overflow="fold")
    for row in rows:
        table.add_row(*(Text(column.told(row)) for column in shown))
    console.print(table)


def moment(unix_ms: int, *, year: bool = True) -> str:
    """A time in the terminal's time zone, to the second; a number when it is too far away.

    Args:
        unix_ms: Milliseconds since the epoch.
        year: Whether the year is told, too.
    """
    try:
        time = datetime.fromtimestamp(unix_ms / 1000, tz=UTC).astimezone()
    except (ValueError, OverflowError):
        return str(unix_ms)
    return time.strftime("%Y-%m-%d %H:%M:%S" if year else "%m-%d %H:%M:%S")


def age(seconds: float) -> str:
    """A duration in its two largest units: ``45s``, ``3m12s``, ``2h05m``, ``4d03h``."""
    left = max(0, int(seconds))
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60)):
        if left >= length:
            return f"{left // length}{unit}{left % length // part:02}{smaller}"
    return f"{left // 60}m{left % 60:02}s" if left >= 60 else f"{left}s"


def size(count: int) -> str:
    """A number of bytes as people read it: ``512 B``, ``1.5 KiB``, ``3.0 GiB``."""
    if count < 1024:
        return f"{count} B"
    value, units = count / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.1f} {units[0]}"


def printable(text: str) -> str:
    """``text`` with what does not print written as an escape."""
    return text if text.isprintable() else repr(text)[1:-1]


def left(until_unix_ms: int, now_ms: int) -> str:
    """How long until a moment: ``23h05m``; ``expired`` after it, nothing for 0."""
    if not until_unix_ms:
        return ""
    return age((until_unix_ms - now_ms) / 1000) if until_unix_ms > now_ms else "expired"


def _is_shown(column: Column[RowT], rows: Sequence[RowT], console: Console) -> bool:
    if column.least > console.width:
        return False
    return not rows or any(column.text(row) for row in rows)


def _fitting(
    columns: list[Column[RowT]], rows: Sequence[RowT], console: Console
) -> list[Column[RowT]]:
    """Those there is room for, which are told in short before one of them is left out."""
    if _together(columns, rows) > console.width:
        columns = [replace(each, text=each.short or each.text) for each in columns]
    while _together(columns, rows) > console.width:
        least = max(columns[::-1], key=lambda each: each.least)  # the last one of these
        if not least.least:
            break
        columns.remove(least)
    return columns


def _together(columns: Sequence[Column[RowT]], rows: Sequence[RowT]) -> int:
    return sum(each.takes(rows) + GAP for each in columns) - GAP

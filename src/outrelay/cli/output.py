"""How answers look: a table that fits the terminal, JSON, one object a line, or a YAML list.

What peers sent is shown without the characters that move a terminal's cursor. Where the
output is no terminal a row is one line, however long.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar, cast

import click
import yaml
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

TABLE, JSON, YAML = FORMATS = ("table", "json", "yaml")

MEDIUM, WIDE = 100, 120
"""Characters of a terminal's width from which there is room for more columns."""

_ENDLESS = 10_000

RowT = TypeVar("RowT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column(Generic[RowT]):
    """One column of a table.

    Args:
        title: Its head.
        text: What it shows of a row.
        whole: Never wrapped: made to be copied.
        least: Characters of a terminal's width below which it is left out.
        width: Characters to keep free for it where rows are shown one by one.
    """

    title: str
    text: Callable[[RowT], str]
    whole: bool = False
    least: int = 0
    width: int = 0


def print_table(columns: Sequence[Column[RowT]], rows: Iterable[RowT]) -> None:
    """Print rows as a table; columns without any text are left out."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = _ENDLESS
    rows = list(rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    shown = [column for column in columns if _is_shown(column, rows, console)]
    for column in shown:
        table.add_column(column.title, no_wrap=column.whole, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(column.text(row))) for column in shown))
    console.print(table)


class Lines(Generic[RowT]):
    """A table whose rows come one by one: its columns are as wide as was thought before."""

    def __init__(self, columns: Sequence[Column[RowT]]) -> None:
        console = Console(file=sys.stdout)
        width = console.width if console.is_terminal else _ENDLESS
        self._columns = [column for column in columns if column.least <= width]
        self._head: list[str] | None = [column.title for column in self._columns]

    def show(self, row: RowT) -> None:
        """Print a row; before the first one the head."""
        if self._head is not None:
            self._print(self._head)
            self._head = None
        self._print([printable(column.text(row)) for column in self._columns])

    def _print(self, texts: Sequence[str]) -> None:
        cells = (
            text.ljust(column.width) for column, text in zip(self._columns, texts, strict=True)
        )
        click.echo("  ".join(cells).rstrip())


def print_rows(
    form: str,
    columns: Sequence[Column[RowT]],
    rows: Iterable[RowT],
    record: Callable[[RowT], Mapping[str, object]],
) -> None:
    """Print rows in one of ``FORMATS``."""
    if form == TABLE:
        print_table(columns, rows)
    else:
        for row in rows:
            print_record(form, record(row))


def print_record(form: str, record: Mapping[str, object]) -> None:
    """Print one record: a line of JSON, or an item of a YAML list."""
    if form == YAML:
        click.echo(yaml.safe_dump([dict(record)], sort_keys=False, width=_ENDLESS), nl=False)
    else:
        click.echo(json.dumps(record, separators=(", ", ": ")))


def record_of(message: Message) -> dict[str, object]:
    """A message as people write it: names as in the .proto, enums as lower-case words."""
    return {
        field.name: word(cast("EnumDescriptor", field.enum_type), value)
        if field.enum_type
        else value
        for field in message.DESCRIPTOR.fields
        for value in [getattr(message, field.name)]
    }


def word(kind: EnumDescriptor, number: int) -> str:
    """An enum value's word: ``allow`` of ``DECISION_ALLOW``; its number when it is unknown."""
    known = kind.values_by_number.get(number)
    return known.name.rpartition("_")[2].lower() if known else str(number)


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


def _is_shown(column: Column[RowT], rows: Sequence[RowT], console: Console) -> bool:
    if column.least > console.width:
        return False
    return not rows or any(column.text(row) for row in rows)

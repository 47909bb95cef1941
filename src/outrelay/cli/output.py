"""How answers look: a table that fits the terminal, JSON, one object a line, or a YAML list."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Generic, cast

import click
import yaml
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from rich.console import Console

from outrelay.lib.errors import IdentityError
from outrelay.lib.identity.uri import SCHEME, Identity, Role
from outrelay.lib.tables import (
    ENDLESS,
    MEDIUM,
    SPARE,
    WIDE,
    Column,
    RowT,
    age,
    left,
    moment,
    print_table,
    printable,
    size,
)

__all__ = [
    "FORMATS", "JSON", "MEDIUM", "SPARE", "TABLE", "WIDE", "YAML", "Column", "Lines", "age",
    "left", "moment", "print_record", "print_rows", "print_table", "printable", "record_of",
    "short_name", "size", "word",
]  # fmt: skip

TABLE, JSON, YAML = FORMATS = ("table", "json", "yaml")


class Lines(Generic[RowT]):
    """A table whose rows come one by one: its columns are as wide as was thought before."""

    def __init__(self, columns: Sequence[Column[RowT]]) -> None:
        console = Console(file=sys.stdout)
        width = console.width if console.is_terminal else ENDLESS
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
        click.echo(yaml.safe_dump([dict(record)], sort_keys=False, width=ENDLESS), nl=False)
    else:
        click.echo(json.dumps(record, separators=(", ", ": ")))


def record_of(message: Message) -> dict[str, object]:
    """A message as people write it: names as in the .proto, enums as lower-case words."""
    return {
        field.name: _value(cast("EnumDescriptor | None", field.enum_type), value)
        for field in message.DESCRIPTOR.fields
        for value in [getattr(message, field.name)]
    }


def _value(kind: EnumDescriptor | None, value: object) -> object:
    if isinstance(value, int) and kind:
        return word(kind, value)
    return value if isinstance(value, str | int) else list(cast("Iterable[str]", value))


def word(kind: EnumDescriptor, number: int) -> str:
    """An enum value's word: ``allow`` of ``DECISION_ALLOW``; its number when it is unknown."""
    known = kind.values_by_number.get(number)
    return known.name.rpartition("_")[2].lower() if known else str(number)


def short_name(uri: str) -> str:
    """The beginning of an agent's name, which tells the agents of a tenant apart."""
    with suppress(IdentityError):
        identity = Identity.parse(uri)
        if identity.role is Role.AGENT:
            return identity.name.partition("-")[0]
    return uri.removeprefix(SCHEME)

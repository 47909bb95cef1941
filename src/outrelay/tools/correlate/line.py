"""One line of a log: what correlate needs of it, or why it has nothing of that.

Words: a *speaker* is who wrote it: a program's component, or the relay whose audit event it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

import orjson

from outrelay.tools.correlate.reading import LONGEST

SOURCE_FILE: Final = "_source_file"
"""The field that correlate adds."""

HEADER: Final = b"# stream_id="
"""How a group begins in what correlate writes, which it reads, too."""

LATEST: Final = 1 << 48
"""Milliseconds since the epoch, in the year 10889; no time is later."""

Fields = Mapping[str, object]

_is_id = re.compile(r"[0-9a-fA-F]{16}").fullmatch


class Not(Enum):
    """Why a line is no entry."""

    AN_OBJECT = "broken"
    OF_A_STREAM = "without both fields"
    A_LINE = "empty, or a heading of correlate's own"


@dataclass(slots=True)
class Entry:
    """A line of a stream.

    Args:
        stream_id: 16 lower-case hex digits.
        ts: Milliseconds since the epoch.
        fields: The line's.
    """

    stream_id: str
    ts: int
    fields: Fields


def parse(line: bytes) -> Entry | Fields | Not:
    """What a line is: an entry, the fields of a line of no stream, or nothing.

    Args:
        line: Without the end of line and without space around it.
    """
    if not line or line.startswith(HEADER):
        return Not.A_LINE
    if len(line) >= LONGEST:
        return Not.AN_OBJECT
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return Not.AN_OBJECT
    if type(fields) is not dict:
        return Not.AN_OBJECT
    stream_id, ts = fields.get("stream_id"), fields.get("ts_unix_ms")
    if type(stream_id) is not str or not _is_id(stream_id):
        return fields
    if type(ts) is not int or not 0 <= ts < LATEST:
        return fields
    return Entry(stream_id.lower(), ts, fields)


def time_of(fields: Fields) -> int | None:
    """When a line was written, milliseconds since the epoch, if it says so."""
    ts = fields.get("ts_unix_ms")
    return ts if type(ts) is int and 0 <= ts < LATEST else None


def text_of(fields: Fields, name: str) -> str:
    """A field that is text; empty when it is not, or not there."""
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def speaker_of(fields: Fields) -> str:
    """Who wrote the line: ``relay``, ``agent``, ``controller``, ``audit`` with its relay."""
    if component := text_of(fields, "component"):
        return component
    if relay := text_of(fields, "relay_id"):
        return f"audit {relay}"
    return "audit" if "decision" in fields else ""

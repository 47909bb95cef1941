"""The form of log lines: what each that is written with ``--log-format json`` must be."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from outrelay.lib.observe.vocabulary import COMMON, VOCABULARY
from outrelay.lib.observe.vocabulary.event import PROGRAMS

_LEVELS = frozenset({"debug", "info", "warning", "error", "critical"})
_is_stream_id = re.compile(r"[0-9a-f]{16}").fullmatch


def fault_in(fields: Mapping[str, object]) -> str:
    """What is wrong with a line; empty: nothing."""
    if type(fields.get("ts_unix_ms")) is not int:
        return "ts_unix_ms is no integer"
    if fields.get("level") not in _LEVELS:
        return "no level"
    if fields.get("component") not in PROGRAMS:
        return "no component"
    if "stream_id" in fields and not _is_stream_id(str(fields["stream_id"])):
        return "stream_id is not 16 hex digits"
    if type(fields.get("times", 1)) is not int:
        return "times is no integer"
    return "" if "logger" in fields else _fault_in_event(fields)


def _fault_in_event(fields: Mapping[str, object]) -> str:
    event = VOCABULARY.get(str(fields.get("event")))
    if event is None:
        return "its event is not in the vocabulary"
    if fields["level"] not in event.levels.split():
        return "its event has another level in the vocabulary"
    if fields["component"] not in event.programs:
        return "its event is not this component's in the vocabulary"
    others = fields.keys() - event.fields - COMMON.keys()
    return f"not in the vocabulary: {', '.join(sorted(others))}" if others else ""


def fault_in_line(line: str) -> str:
    """What is wrong with a line of standard error, as text."""
    try:
        fields = json.loads(line)
    except ValueError:
        return "it is no JSON"
    return fault_in(fields) if isinstance(fields, dict) else "it is no JSON object"

"""The vocabulary: every event of our logs, who says it, with which fields, and what it means.

    VOCABULARY["backend failed"].meaning

Words: an *event* is the constant phrase of a log line; its *fields* are those beside the ones that
every line has (``COMMON``). docs/reference/events.md is made from this.

Invariant: what the code logs is what is listed here, which a test holds against each other.

Source: style.md, logging.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from outrelay.lib.observe.vocabulary.agents import AGENTS
from outrelay.lib.observe.vocabulary.controllers import CONTROLLERS
from outrelay.lib.observe.vocabulary.event import Event
from outrelay.lib.observe.vocabulary.processes import PROCESSES
from outrelay.lib.observe.vocabulary.relays import RELAYS
from outrelay.lib.observe.vocabulary.streams import STREAMS

__all__ = ["COMMON", "SECTIONS", "VOCABULARY", "Event"]

COMMON: Final[Mapping[str, str]] = {
    "ts_unix_ms": "When it was written, milliseconds since the epoch.",
    "level": "`debug`, `info`, `warning` or `error`; `critical` in lines of libraries alone.",
    "component": "Which program: `agent`, `relay` or `controller`.",
    "event": "What happened: a phrase of this page.",
    "times": "Of a line about what may come in floods: how often it happened since the line"
    " before it. The other fields are those of the last time, and the line is up to a second late.",
    "exception": "The trace of an error.",
    "logger": "Of a line of a library, whose `event` is its own: which one.",
}
"""Fields that any line may have; the first four it always has."""

SECTIONS: Final[Mapping[str, tuple[Event, ...]]] = {
    "Streams": STREAMS,
    "Agents": AGENTS,
    "Relays": RELAYS,
    "Controllers": CONTROLLERS,
    "Processes and connections": PROCESSES,
}
"""The events as the documentation has them."""

VOCABULARY: Final[Mapping[str, Event]] = {
    event.phrase: event for section in SECTIONS.values() for event in section
}
"""Every event, by its phrase."""

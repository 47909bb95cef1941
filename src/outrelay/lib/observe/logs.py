"""Logs: structlog's calls over stdlib logging, as JSON lines or as text for people.

Words: an *event* is a short lower-case phrase that never varies ("stream opened"); what
varies are the *fields*, passed as keywords. The *component* is the process: relay, agent.

    log = get_logger(__name__)
    log.info("stream opened", stream_id=f"{stream_id:016x}", peer=identity)

Invariants:

- One record is one line (text adds the trace of an error below it); a value from a peer
  can neither start a new line nor move the cursor of a terminal.
- JSON lines carry ``ts_unix_ms``, ``level``, ``component`` and ``event``, then the fields.
- Values are written with ``str``; nobody logs keys, tokens or payload.
- A call below the level costs one cached look-up. Where even its arguments cost
  something (a line per frame), ask ``log.isEnabledFor(logging.DEBUG)`` first.

Source: style.md, logging.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

import structlog
from structlog.typing import EventDict, ProcessorReturnValue

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

Logger = structlog.stdlib.BoundLogger

_OURS = "outrelay"
# Libraries whose warnings are ours to word: what they warn of is what any peer may send.
_NOISY = ("quic", "asyncio")
_LEVEL_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31"}

structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    wrapper_class=Logger,
    logger_factory=structlog.stdlib.LoggerFactory(),
)


def get_logger(name: str) -> Logger:
    """The logger of a module.

    Args:
        name: Its ``__name__``.
    """
    return structlog.stdlib.get_logger(name).bind()  # bound now: no look-up at every call


def configure(
    component: str, fmt: str = "text", level: str = "info", stream: TextIO | None = None
) -> None:
    """Send the logs of this process to ``stream``; a second call replaces the first.

    Third-party loggers speak from warning on only, whatever the level.

    Args:
        component: What this process is; every JSON line carries it.
        fmt: One of ``FORMATS``.
        level: One of ``LEVELS``.
        stream: Where to; standard error when None. Text is coloured on a terminal.
    """
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(_formatter(component, fmt, colours=_is_colourful(handler.stream)))
    root = logging.getLogger()
    for earlier in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(threshold, logging.WARNING))
    logging.getLogger(_OURS).setLevel(threshold)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.captureWarnings(capture=True)


class _Handler(logging.StreamHandler[TextIO]):
    """The handler that ``configure`` installs, told apart from everybody else's."""


def _is_colourful(stream: TextIO) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ


def _formatter(component: str, fmt: str, *, colours: bool) -> logging.Formatter:
    renderer: Callable[[structlog.typing.WrappedLogger, str, EventDict], ProcessorReturnValue] = (
        structlog.processors.JSONRenderer(default=str)
        if fmt == "json"
        else _TextRenderer(colours=colours)
    )

    def stamp(_logger: object, _method: str, event: EventDict) -> EventDict:
        """Put what every line carries in front of the fields."""
        record: logging.LogRecord = event.pop("_record")
        ours = event.pop("_from_structlog")
        origin = {} if ours else {"logger": record.name}
        return {
            "ts_unix_ms": int(record.created * 1000),
            "level": record.levelname.lower(),
            "component": component,
            "event": event.pop("event"),
            **origin,
            **event,
        }

    return structlog.stdlib.ProcessorFormatter(
        processors=[stamp, structlog.processors.format_exc_info, renderer]
    )


class _TextRenderer:
    """``12:00:00.123 INFO    stream opened  stream_id=00000000000000ff``, in local time."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _logger: object, _method: str, line: EventDict) -> str:
        moment = datetime.fromtimestamp(line.pop("ts_unix_ms") / 1000, tz=UTC).astimezone()
        level: str = line.pop("level")
        del line["component"]
        event = _plain(str(line.pop("event")))
        trace: str = line.pop("exception", "")
        words = [
            self._paint("2", moment.strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03d}"),
            self._paint(_LEVEL_COLOURS[level], f"{level.upper():<7}"),
            self._paint("1", event),
            *(f"{self._paint('36', key)}={_quoted(str(value))}" for key, value in line.items()),
        ]
        return " ".join(words) + (f"\n{trace}" if trace else "")

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colours else text


def _plain(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]


def _quoted(text: str) -> str:
    """``text`` as it is when that is unambiguous, else as a quoted, escaped string."""
    bare = text.isprintable() and text and not any(mark in text for mark in " \"'=")
    return text if bare else repr(text)

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
- Within an event loop lines below a warning are written some turns later, behind what is more
  urgent: what whoever logs has to send. A warning, a thread, and the end of the process write
  whatever waits, in order.
- A call below the level costs one cached look-up. Where even its arguments cost
  something (a line per frame), ask ``log.isEnabledFor(logging.DEBUG)`` first.

Source: style.md, logging.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from logging.handlers import MemoryHandler
from typing import TextIO

import structlog
from structlog.typing import EventDict, ProcessorReturnValue

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

TURNS = 4
"""Turns of the event loop that a line may wait: so many it takes until a frame has been sent."""

MOST = 256
"""Lines that may wait."""

Logger = structlog.stdlib.BoundLogger

_OURS = "outrelay"
# Libraries whose warnings are ours to word: what they warn of is what any peer may send.
_NOISY = ("quic", "asyncio")
_LEVEL_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31"}


class _Source(logging.Logger):
    """A logger of ours: no line says which code wrote it, so nobody goes looking for that."""

    def findCaller(  # noqa: N802 - as logging has it
        self, stack_info: bool = False, stacklevel: int = 1
    ) -> tuple[str, int, str, str | None]:
        return "", 0, "", None


def _source(name: str) -> logging.Logger:
    usual = logging.getLoggerClass()
    logging.setLoggerClass(_Source)
    try:
        return logging.getLogger(name)
    finally:
        logging.setLoggerClass(usual)


def _hand_over(_logger: object, _method: str, event: EventDict) -> ProcessorReturnValue:
    """Let the event be the message of a record: the formatter makes it a line."""
    return (event,), {}


structlog.configure(
    processors=[structlog.stdlib.filter_by_level, _hand_over],
    wrapper_class=Logger,
    logger_factory=_source,
)


def get_logger(name: str) -> Logger:
    """The logger of a module.

    Args:
        name: Its ``__name__``.
    """
    return structlog.stdlib.get_logger(name).bind()  # bound now: no look-up at every call


log = get_logger(__name__)


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
    lines = logging.StreamHandler(stream or sys.stderr)
    lines.setFormatter(_formatter(component, fmt, colours=_is_colourful(lines.stream)))
    root = logging.getLogger()
    for earlier in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(earlier)
        earlier.close()
    root.addHandler(_Handler(lines))
    _set_level(level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.captureWarnings(capture=True)


def level() -> str:
    """The least level that is logged now."""
    return logging.getLevelName(logging.getLogger(_OURS).getEffectiveLevel()).lower()


def change_level(wanted: str, *, by: str) -> None:
    """Log from now on what is at least of this level, and say so.

    Args:
        wanted: One of ``LEVELS``.
        by: Who wants it.
    """
    before = level()
    is_more = LEVELS.index(wanted) < LEVELS.index(before)
    if is_more:
        _set_level(wanted)
    log.warning("log level changed", to=wanted, before=before, by=by)
    _set_level(wanted)


def _set_level(name: str) -> None:
    threshold = logging.getLevelNamesMapping()[name.upper()]
    logging.getLogger().setLevel(max(threshold, logging.WARNING))
    logging.getLogger(_OURS).setLevel(threshold)


class _Handler(MemoryHandler):
    """The handler that ``configure`` installs: see the module for when it writes."""

    def __init__(self, lines: logging.Handler) -> None:
        super().__init__(MOST, logging.WARNING, lines)
        self._woken_by: asyncio.AbstractEventLoop | None = None

    def shouldFlush(self, record: logging.LogRecord) -> bool:  # noqa: N802 - as logging has it
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return True
        if self._woken_by is not loop:
            self._woken_by = loop
            loop.call_soon(self._wait, loop, TURNS)
        return super().shouldFlush(record)

    def _wait(self, loop: asyncio.AbstractEventLoop, turns: int) -> None:
        if turns:
            loop.call_soon(self._wait, loop, turns - 1)
        else:
            self._woken_by = None
            self.flush()


def _is_colourful(stream: TextIO) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ


_Renderer = Callable[[object, str, EventDict], object]


def _formatter(component: str, fmt: str, *, colours: bool) -> logging.Formatter:
    if fmt == "json":
        return _Formatter(component, _json)
    return _Formatter(component, _TextRenderer(colours=colours))


_encode = json.JSONEncoder(default=str).encode


def _json(_logger: object, _method: str, line: EventDict) -> str:
    return _encode(line)


class _Formatter(logging.Formatter):
    """Puts what every line carries in front of the fields, and has them rendered.

    structlog has one too, which makes a second record of each; there are two lines for every
    stream, so that what a line costs is felt.
    """

    def __init__(self, component: str, renderer: _Renderer) -> None:
        super().__init__()
        self._component = component
        self._renderer = renderer

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        line: EventDict = {
            "ts_unix_ms": int(record.created * 1000),
            "level": record.levelname.lower(),
            "component": self._component,
            "event": fields.pop("event"),
            **fields,
        }
        if "exc_info" in line:
            line = structlog.processors.format_exc_info(None, "", line)
        return str(self._renderer(None, "", line))


def _fields(record: logging.LogRecord) -> EventDict:
    """What a record says: of ours, its event; of others, their words and whose they are."""
    if isinstance(record.msg, dict) and "event" in record.msg:
        return dict(record.msg)
    said: EventDict = {"event": record.getMessage(), "logger": record.name}
    if record.exc_info:
        said["exc_info"] = record.exc_info
    return said


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

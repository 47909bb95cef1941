"""The numbers as lines of JSON in a file, one every few seconds: for who has no Prometheus.

    {"ts_unix_ms": 1767225600000, "component": "relay", "metrics": {"outrelay_ready": 1, ...}}

Invariants: a line is in the file whole or not at all. The file stays below ``MOST`` bytes, and
there is at most one more, ``FILE.1``, with what came before. A disk that takes nothing costs
lines, and one line in the log, nothing else: the event loop does not wait for it.

Source: commands.md, ``--metrics-dump``.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Never

from outrelay.lib.errors import ConfigError
from outrelay.lib.observe.exposition import series_of
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.views import Views

log = get_logger(__name__)

FLAG = "--metrics-dump"
MOST = 64 * 2**20
"""Bytes of the file; about a week of lines."""


class Dump:
    """Writes the lines of one process.

    Args:
        path: The file.
        views: What to write.
    """

    def __init__(self, path: Path, views: Views) -> None:
        self._path = path
        self._views = views
        self._failing = False

    async def run(self, interval: float) -> Never:
        """Write a line every so many seconds, for ever."""
        while True:
            await asyncio.sleep(interval)
            line = self._line()
            self._note(await asyncio.to_thread(_try_append, self._path, line))

    def finish(self) -> None:
        """Write the last line."""
        self._note(_try_append(self._path, self._line()))

    def _line(self) -> bytes:
        line = {
            "ts_unix_ms": time.time_ns() // 1_000_000,
            "component": self._views.component,
            "metrics": series_of(self._views.registry),
        }
        return json.dumps(line).encode() + b"\n"

    def _note(self, error: OSError | None) -> None:
        if error and not self._failing:
            fault, hint = error.strerror, "lines are left out until it can be written again"
            log.warning("metrics not dumped", file=str(self._path), error=fault, hint=hint)
        elif self._failing and not error:
            log.info("metrics are dumped again", file=str(self._path))
        self._failing = error is not None


def try_dump(path: Path) -> None:
    """See whether there can be lines in this file.

    Raises:
        ConfigError: There cannot.
    """
    try:
        append(path, b"")
    except OSError as error:
        fault = f"{path} cannot be written: {error.strerror}"
        raise ConfigError(FLAG, fault, "give a file in a directory of yours") from error


def append(path: Path, line: bytes) -> None:
    """Write at the end of a file, of which only the newest ``MOST`` bytes are kept in it.

    Raises:
        OSError: It cannot be written; nothing was.
    """
    with suppress(FileNotFoundError):
        found = path.stat()
        if stat.S_ISREG(found.st_mode) and found.st_size + len(line) > MOST:
            path.replace(path.with_name(f"{path.name}.1"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o640)
    try:
        end = os.fstat(descriptor).st_size
        if os.write(descriptor, line) < len(line):
            with suppress(OSError):
                os.ftruncate(descriptor, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def _try_append(path: Path, line: bytes) -> OSError | None:
    try:
        append(path, line)
    except OSError as error:
        return error
    return None

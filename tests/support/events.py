"""Log events as something a test can wait for.

with events() as seen:
    ...
    line = await seen.wait("registered", service="db")
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import structlog
from structlog.typing import EventDict, WrappedLogger

Line = Mapping[str, object]


class Events:
    """What was logged, oldest first."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._logged = asyncio.Event()

    def of(self, event: str, **fields: object) -> list[Line]:
        """The lines of that event with those fields."""
        wanted = {"event": event, **fields}
        return [each for each in self.lines if wanted.items() <= each.items()]

    async def wait(self, event: str, *, count: int = 1, **fields: object) -> Line:
        """The line number ``count`` of those ``of`` gives, as soon as there is one."""
        while len(found := self.of(event, **fields)) < count:
            self._logged.clear()
            await self._logged.wait()
        return found[count - 1]

    def __call__(self, _logger: WrappedLogger, level: str, line: EventDict) -> EventDict:
        """Take a line; structlog calls it."""
        self.lines.append({**line, "level": level})
        self._logged.set()
        raise structlog.DropEvent


@contextmanager
def events() -> Iterator[Events]:
    """Catch everything that is logged, on all levels."""
    processors = structlog.get_config()["processors"]
    before, seen = list(processors), Events()
    processors[:] = [seen]  # in place: loggers keep the list
    try:
        yield seen
    finally:
        processors[:] = before

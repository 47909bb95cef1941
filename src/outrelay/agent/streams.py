"""All streams of an agent: how many there may be, and how they end when the agent stops.

Words: the *work* of a stream is its task, from the application's connection or the relay's
INCOMING_STREAM to the last byte, whichever role the agent has in it.

Invariant: the work of a stream belongs to the group the streams were made with.
"""

from __future__ import annotations

import asyncio
import secrets
from asyncio import Task, TaskGroup
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import count

from outrelay.lib.observe import logs
from outrelay.lib.observe.views import Json
from outrelay.lib.tasks import isolate

log = logs.get_logger(__name__)

_FLUSH = 0.05
"""Seconds for the last packets to leave before the connection is closed."""


class Streams:
    """The work under way.

    Args:
        group: Owns the tasks.
        most: How many streams there may be.
    """

    def __init__(self, group: TaskGroup, most: int) -> None:
        self._group = group
        self._most = most
        self._work: set[Task[None]] = set()
        self._ids: set[int] = set()
        self.shown: dict[str, Callable[[], Json]] = {}
        """What there is to see of those that are carried, by name."""
        self._repeated = count(2)
        self.draining = False
        """Whether no new stream is taken because the agent stops."""

    def __len__(self) -> int:
        return len(self._work)

    @property
    def full(self) -> bool:
        """Whether there are as many as there may be."""
        return len(self._work) >= self._most

    def start(self, work: Coroutine[object, object, object], *, name: str) -> None:
        """Run the work of one more stream; a failure in it is logged and ends only itself."""
        task = isolate(self._group, work, name=name)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    @contextmanager
    def new_id(self) -> Iterator[int]:
        """An id that no stream of ours has, for as long as the context lasts."""
        while (stream_id := secrets.randbits(64)) == 0 or stream_id in self._ids:
            pass
        self._ids.add(stream_id)
        try:
            yield stream_id
        finally:
            self._ids.discard(stream_id)

    @contextmanager
    def showing(self, name: str, describe: Callable[[], Json]) -> Iterator[None]:
        """Let a stream be seen for as long as the context lasts.

        Args:
            name: Usually its own alone; where a relay repeats itself, a number is added.
            describe: What there is to see of it.
        """
        if name in self.shown:
            name = f"{name}/{next(self._repeated)}"
        self.shown[name] = describe
        try:
            yield
        finally:
            del self.shown[name]

    async def drain(self, limit: float) -> None:
        """Let what runs finish, and end what has not within ``limit`` seconds."""
        self.draining = True
        if not self._work:
            return
        log.info("draining", streams=len(self._work), seconds=limit)
        _, late = await asyncio.wait(self._work, timeout=limit)
        if late:
            log.warning("streams cut off", streams=len(late), hint="give them more with --drain")
            for task in late:
                task.cancel()
            await asyncio.wait(late)
        await asyncio.sleep(_FLUSH)

"""The spool: audit events in files, until the controller has stored them.

Every batch of the trail is written to a *segment*, a file of at most a batch; the oldest
segment is sent, and removed when all of it is stored. So what happened is safe a moment
after it happened, whatever becomes of this process and of the controller, and memory holds
what happened in the last moment only.

Invariants:

- What is in the folder at the start is sent first, in its order; an event that was stored
  already is sent again under its id.
- A disk that takes nothing ends nothing: events stay in memory, within its shares, and go
  to the controller from there. The writing is tried again.
- A file that is damaged loses what is damaged in it, and is set aside.

Source: control-plane.md, Audit.
"""

from __future__ import annotations

import asyncio

from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.metrics import AuditMetrics
from outrelay.relay.audit.disk import Disk, Records
from outrelay.relay.audit.trail import BATCH, Trail

log = get_logger(__name__)

RETRY = 1.0
"""Seconds until a disk that took nothing is tried again."""


class Spool:
    """Writes what the trail has, and hands out what was written.

    Args:
        trail: Where events come from; it knows the disk's shares.
        disk: Where they wait.
        metrics: Told how many wait, and how many were stored.
    """

    def __init__(self, trail: Trail, disk: Disk, metrics: AuditMetrics) -> None:
        self._trail = trail
        self._disk = disk
        self._metrics = metrics
        self._segments = disk.segments
        self._spooled = sum(segment.events for segment in self._segments)
        self._loaded: Records = ()
        """What is not stored of the first segment."""
        self._failing = False
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._empty = asyncio.Event()
        self._count(0)
        if self._spooled:
            log.info("audit events of an earlier run are in the spool", events=self._spooled)

    async def run(self) -> None:
        """Write for ever."""
        while True:
            records = await self._trail.next()
            try:
                async with self._lock:
                    await self._write(records)
            except OSError as error:
                self._note_failure(error)
                await asyncio.sleep(RETRY)
            else:
                self._note_success()

    # ---- for the sender ------------------------------------------------------------------

    async def next(self) -> Records:
        """The oldest events, when there are some; the same until they are ``stored``."""
        while not self._loaded:
            if self._segments:
                await self._load()
            elif self._failing and (records := self._trail.batch()):
                return records
            else:
                self._changed.clear()
                await self._changed.wait()
        return self._loaded

    async def stored(self, records: Records) -> None:
        """The controller has these, the first of what ``next`` returned."""
        if not self._loaded:
            await self._trail.stored(records)
            return
        self._metrics.sent.inc(len(records))
        self._loaded = self._loaded[len(records) :]
        self._count(-len(records))
        if not self._loaded:
            await self._remove_first()

    async def settle(self) -> None:
        """Hold nothing back; return when everything is written, or stored."""
        await self._trail.settle()

    async def wait_empty(self) -> None:
        """Return when everything that was written is stored."""
        await self._empty.wait()

    @property
    def waiting(self) -> int:
        """Events that are not stored."""
        return self._spooled + self._trail.waiting

    # ---- inside --------------------------------------------------------------------------

    async def _write(self, records: Records) -> None:
        segment = self._segments[-1] if self._segments else None
        if segment is None or segment.closed or segment.events + len(records) > BATCH:
            segment = self._disk.begin()
        is_new = not segment.size
        await self._disk.write(segment, records)
        if is_new:
            self._segments.append(segment)
        self._trail.remove(records)
        self._count(len(records))

    async def _load(self) -> None:
        """Read the first segment; one without events is removed."""
        segment = self._segments[0]
        async with self._lock:
            self._loaded = await self._disk.read(segment)
        self._count(len(self._loaded) - segment.events)  # fewer where the file is damaged
        if not self._loaded:
            await self._remove_first()

    async def _remove_first(self) -> None:
        segment = self._segments.popleft()
        await self._disk.remove(segment)
        self._count(0)

    def _note_failure(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            log.error(
                "audit spool cannot be written",
                reason=error.strerror,
                hint="events wait in memory meanwhile",
            )
        self._changed.set()

    def _note_success(self) -> None:
        if self._failing:
            self._failing = False
            log.warning("audit spool is written again")

    def _count(self, more: int) -> None:
        self._spooled += more
        self._metrics.spooled.set(self._spooled)
        self._changed.set()
        if self._segments:
            self._empty.clear()
        else:
            self._empty.set()

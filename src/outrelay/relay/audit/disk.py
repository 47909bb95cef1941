"""The spool's folder at hand: its segments, whose they are, and a thread for what blocks.

Words: a *segment* is a file of records (see record.py); what was found at the start and
what is being sent is *closed*, nothing is written to it any more.

Invariant: the event loop never waits for the disk.

Source: control-plane.md, Audit.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from outrelay.lib.observe.logs import get_logger
from outrelay.relay.audit.files import SpoolFiles, open_files
from outrelay.relay.audit.record import MAGIC, End, Record, decode, encode
from outrelay.relay.audit.shares import Shares
from outrelay.relay.clock import unix_ms

log = get_logger(__name__)

T = TypeVar("T")
Records = Sequence[Record]


@dataclass(slots=True, kw_only=True, eq=False)
class Segment:
    """A file, and what is in it.

    Args:
        number: Its place in the order.
        size: Its bytes.
        events: Its events.
        held: Bytes it is counted as, by tenant.
        closed: Whether nothing is written to it any more.
        end: What is wrong with it.
    """

    number: int
    size: int = 0
    events: int = 0
    held: Counter[str] = field(default_factory=Counter)
    closed: bool = False
    end: End = End.CLEAN


class Disk:
    """The folder at hand; make one with ``open_disk``.

    Args:
        files: The folder.
        thread: Does what is done to it from now on.
        size: Bytes of all segments.
    """

    def __init__(self, files: SpoolFiles, thread: ThreadPoolExecutor, size: int) -> None:
        self._files = files
        self._thread = thread
        self.shares = Shares(size)
        self._next = max([unix_ms(), *(number + 1 for number in files.numbers())])
        self.segments = deque(self._look())

    def begin(self) -> Segment:
        """A segment that is not there yet."""
        self._next += 1
        return Segment(number=self._next)

    async def write(self, segment: Segment, records: Records) -> None:
        """Write records to the end of a segment; raises OSError."""
        data = encode(records)
        if not segment.size:
            data = MAGIC + data
        await self._do(self._files.write, segment.number, segment.size, data)
        segment.size += len(data)
        self._count(segment, records)

    async def read(self, segment: Segment) -> Records:
        """The good records of a segment, which is closed from now on."""
        segment.closed = True
        was = segment.end
        try:
            records, segment.end = decode(await self._do(self._files.read, segment.number))
        except OSError as error:
            _tell("audit spool file cannot be read", segment.number, error)
            records, segment.end = [], End.DAMAGED
        if segment.end is not was:
            _tell_end(segment)
        return records

    async def remove(self, segment: Segment) -> None:
        """Remove a segment, or set it aside when there is something wrong with it."""
        for tenant, amount in segment.held.items():
            self.shares.give_back(tenant, amount)
        try:
            if segment.end is End.DAMAGED:
                path = await self._do(self._files.set_aside, segment.number)
                log.error("damaged audit spool file set aside", file=path)
            else:
                await self._do(self._files.remove, segment.number)
        except OSError as error:
            _tell("audit spool file cannot be removed", segment.number, error)

    def _look(self) -> Iterator[Segment]:
        """The segments that an earlier process left."""
        for number in self._files.numbers():
            segment = Segment(number=number, closed=True)
            try:
                records, segment.end = decode(self._files.read(number))
            except OSError as error:
                _tell("audit spool file cannot be read", number, error)
                continue
            self._count(segment, records)
            if segment.end is not End.CLEAN:
                _tell_end(segment)
            yield segment

    def _count(self, segment: Segment, records: Records) -> None:
        segment.events += len(records)
        for record in records:
            segment.held[record.tenant] += record.size
            self.shares.take(record.tenant, record.size)

    async def _do(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)


@contextmanager
def open_disk(folder: Path, size: int) -> Iterator[Disk]:
    """Use a folder as a spool.

    Args:
        folder: Made when absent.
        size: Bytes of all segments.

    Raises:
        ConfigError: It cannot be used, or another relay uses it.
    """
    with open_files(folder) as files, ThreadPoolExecutor(1, "audit-spool") as thread:
        yield Disk(files, thread, size)


def _tell(event: str, number: int, error: OSError) -> None:
    log.error(event, file=f"{number:016x}", reason=error.strerror)


def _tell_end(segment: Segment) -> None:
    """Something is wrong with a file."""
    log.error(
        "audit spool file is not whole",
        file=f"{segment.number:016x}",
        fault=segment.end.value,
        good_events=segment.events,
    )

"""The parts of the in-memory carrier: one direction of a stream, and a queue that can end.

Words: a *pipe* has one writer and one reader. It holds at most ``WINDOW`` bytes the reader
has not taken, as if a packet had carried them, and ``WRITE_BUFFER`` *unsent* ones behind
them; then the writer waits. What the window holds counts as acknowledged: a writer that
waits for its end learns nothing about what the reader has read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from outrelay.lib.errors import Closed, ErrorCode, LocalProtocolError, Reset, TransportError
from outrelay.lib.transport.carrier import WRITE_BUFFER

T = TypeVar("T")

WINDOW = 256 * 1024
"""Bytes of one direction that are under way to the reader."""


class Pipe:
    """One direction of a stream: one writer, one reader, a bounded buffer between.

    Args:
        on_over: Called each time the pipe may have become ``over``.
    """

    def __init__(self, on_over: Callable[[], None]) -> None:
        self._on_over = on_over
        self._buffer = bytearray()
        self._finished = False
        self._reading = False
        self._writing = False
        self._read_error: TransportError | None = None
        self._write_error: TransportError | None = None
        self._changed = asyncio.Event()

    @property
    def unsent(self) -> int:
        """Bytes behind those the window holds."""
        return 0 if self._write_error else max(0, len(self._buffer) - WINDOW)

    @property
    def over(self) -> bool:
        """Whether nothing will pass any more."""
        return self._read_error is not None or (self._finished and not self._buffer)

    @property
    def _acknowledged(self) -> bool:
        return self._finished and not self._write_error and not self.unsent

    async def read(self, limit: int) -> bytes:
        """See ``carrier.Stream``."""
        if self._reading:
            raise LocalProtocolError("two readers on one stream")
        self._reading = True
        try:
            while not (self._buffer or self._finished or self._read_error):
                await self._change()
        finally:
            self._reading = False
        if self._read_error:
            raise self._read_error.with_traceback(None)
        data = bytes(self._buffer[:limit])
        del self._buffer[:limit]
        self._notify()
        return data

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """See ``carrier.Stream``."""
        if self._writing:
            raise LocalProtocolError("two writers on one stream")
        self._writing = True
        try:
            with memoryview(data) as view:
                taken = self._take(view)
                while taken < len(view):
                    await self._change()
                    taken += self._take(view[taken:])
        finally:
            self._writing = False

    def finish(self) -> None:
        """The writer is done."""
        self._finished = True
        self._notify()

    def abandon(self, code: ErrorCode) -> None:
        """The writer gives up."""
        if not self._acknowledged:
            self._buffer.clear()
            self._fail(Reset(code), Reset(code))

    def refuse(self, code: ErrorCode) -> None:
        """The reader gives up; what the window holds was acknowledged."""
        if not self.over:
            writer = None if self._acknowledged else Reset(code)
            self._buffer.clear()
            self._fail(Reset(code), writer)

    def lose_reader(self, closed: Closed) -> None:
        """The reader's connection is gone."""
        if not self.over:
            self._fail(closed, None)

    def lose_writer(self, closed: Closed) -> None:
        """The writer's connection is gone."""
        if not self._acknowledged:
            self._fail(None, closed)

    async def wait_finished(self) -> None:
        """See ``carrier.Stream``."""
        while not (self._acknowledged or self._write_error):
            await self._change()
        if self._write_error:
            raise self._write_error.with_traceback(None)

    def _take(self, view: memoryview) -> int:
        """Buffer what fits; how much that was."""
        if self._write_error:
            raise self._write_error.with_traceback(None)
        if self._finished:
            raise LocalProtocolError("write after finish")
        part = view[: WINDOW + WRITE_BUFFER - len(self._buffer)]
        self._buffer += part
        self._notify()
        return len(part)

    def _fail(self, reader: TransportError | None, writer: TransportError | None) -> None:
        """End the pipe early for either side; what came first stays."""
        self._read_error = self._read_error or reader
        self._write_error = self._write_error or writer
        self._notify()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._on_over()


class Arrivals(Generic[T]):
    """A queue that can end: what waits in it is dropped, whoever waits on it is told."""

    def __init__(self) -> None:
        self._queue = asyncio.Queue[T | None]()
        self._closed: Closed | None = None

    def __len__(self) -> int:
        return self._queue.qsize()

    def put(self, item: T) -> None:
        """Add an item; its number is the owner's to bound."""
        self._queue.put_nowait(item)

    async def get(self) -> T:
        """The next item.

        Raises:
            Closed: The queue has ended.
        """
        item = await self._queue.get()
        if item is None:
            assert self._closed
            self._queue.put_nowait(None)  # whoever waits next learns it too
            raise self._closed.with_traceback(None)
        return item

    def end(self, closed: Closed) -> None:
        """Drop what waits; ``get`` raises ``closed`` from now on. Idempotent."""
        if self._closed:
            return
        self._closed = closed
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

"""Notices that the peer of a socket aborted while nobody reads from it or writes to it.

A stalled upload, and a stream that is still being opened, leave the application's socket
alone; its RST would be noticed with the next byte, which may never come. The kernel can tell
without a byte being moved: an epoll set without any events asked for reports errors only.
The event loop waits on that set as on any other file.

Where there is no epoll nothing is noticed early, and all else works.

Source: protocol.md section 1 (an application's RST); Linux epoll(7).
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable
from types import TracebackType


class AbortWatch:
    """Watches any number of sockets; it is one file for the whole agent."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._aborted: dict[int, Callable[[], None]] = {}
        if self._epoll:
            self._loop.add_reader(self._epoll.fileno(), self._look)

    def close(self) -> None:
        """Stop watching."""
        if self._epoll:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def guard(self, sock: socket.socket) -> Guard:
        """A context whose body ends with ConnectionResetError when the peer aborts."""
        return Guard(self, sock.fileno())

    def add(self, descriptor: int, aborted: Callable[[], None]) -> None:
        """Call ``aborted`` when the peer aborts; once."""
        if self._epoll:
            self._aborted[descriptor] = aborted
            self._epoll.register(descriptor, select.EPOLLET)

    def remove(self, descriptor: int) -> None:
        """Undo ``add``; the descriptor must still be open."""
        if self._aborted.pop(descriptor, None) and self._epoll:
            self._epoll.unregister(descriptor)

    def _look(self) -> None:
        assert self._epoll
        for descriptor, events in self._epoll.poll(0):
            if events & select.EPOLLERR and descriptor in self._aborted:
                self._aborted[descriptor]()


class Guard:
    """See ``AbortWatch.guard``; it cancels its task's body the way ``asyncio.timeout`` does."""

    def __init__(self, watch: AbortWatch, descriptor: int) -> None:
        self._watch = watch
        self._descriptor = descriptor
        self._aborted = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._watch.add(self._descriptor, self._abort)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watch.remove(self._descriptor)
        if not self._aborted:
            return
        asked_by_others = self._task.uncancel() > self._cancelling
        if isinstance(error, asyncio.CancelledError) and not asked_by_others:
            reset = os.strerror(errno.ECONNRESET)
            raise ConnectionResetError(errno.ECONNRESET, reset) from error

    def _abort(self) -> None:
        if not self._aborted:
            self._aborted = True
            self._task.cancel()

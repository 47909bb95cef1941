"""Notices that the peer of a socket aborted while nobody reads from it or writes to it.

A stalled upload, and a stream that is still being opened, leave the application's socket
alone; its RST would be noticed with the next byte, which may never come. The kernel can tell
without a byte being moved: an epoll set without any events asked for reports errors only.
The event loop waits on that set as on any other file.

An RST behind an end of file is none to us: what was sent before it is whole and can still be
read. The kernel tells the two apart (ECONNRESET, EPIPE) until we have ended our own direction;
a guard must be released before that. Where there is no epoll nothing is noticed early, and all
else works.

Source: protocol.md section 1 (an application's RST); Linux epoll(7), tcp_reset in tcp_input.c.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from types import TracebackType
from typing import Self


class AbortWatch:
    """Watches any number of sockets; it is one file for the whole agent."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._guards: dict[int, Guard] = {}
        if self._epoll:
            self._loop.add_reader(self._epoll.fileno(), self._look)

    def close(self) -> None:
        """Stop watching."""
        if self._epoll:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def guard(self, sock: socket.socket) -> Guard:
        """A context whose body ends with an OSError when the peer of ``sock`` aborts."""
        return Guard(self, sock)

    def add(self, guard: Guard) -> None:
        """Tell ``guard`` of errors of its socket."""
        if self._epoll:
            self._guards[guard.descriptor] = guard
            self._epoll.register(guard.descriptor, select.EPOLLET)

    def remove(self, guard: Guard) -> None:
        """Undo ``add``, while the socket is still open. Idempotent."""
        if self._guards.pop(guard.descriptor, None) and self._epoll:
            self._epoll.unregister(guard.descriptor)

    def _look(self) -> None:
        assert self._epoll
        for descriptor, events in self._epoll.poll(0):
            if events & select.EPOLLERR and descriptor in self._guards:
                self._guards[descriptor].look()


class Guard:
    """See ``AbortWatch.guard``; it ends its task's body the way ``asyncio.timeout`` does."""

    def __init__(self, watch: AbortWatch, sock: socket.socket) -> None:
        self.descriptor = sock.fileno()
        self._watch = watch
        self._socket = sock
        self._error = 0

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._watch.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
        if not self._error:
            return
        asked_by_others = self._task.uncancel() > self._cancelling
        if isinstance(error, asyncio.CancelledError) and not asked_by_others:
            self.check()

    def release(self) -> None:
        """Guard no longer: our direction is about to end. Idempotent."""
        self._watch.remove(self)

    def check(self) -> None:
        """Raise what the peer did, if it aborted."""
        if self._error:
            raise OSError(self._error, os.strerror(self._error))

    def look(self) -> None:
        """Judge an error of the socket."""
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error not in {0, errno.EPIPE} and not self._error:
            self._error = error
            self._task.cancel()

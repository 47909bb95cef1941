"""All writes to the database, one after the other, few of them alone.

Words: a *job* is a write that somebody asked for. Jobs that wait at the same time are a
*group*, written in one transaction: the disk is waited for once. A *session* is a job's view
of the database.

Invariants: a job is acknowledged, and its changes published, only when it is committed;
changes are published in the order of their commits; a job that fails has changed nothing,
and no other job fails because of it; who asked may be cancelled, what he asked for and its
publication are not, once it is begun.

Source: control-plane.md, Storage.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Sequence
from typing import Any, TypeVar

import aiosqlite

from outrelay.controller.store.session import Session, Work, translated
from outrelay.lib.errors import StoreError
from outrelay.lib.observe.logs import get_logger

log = get_logger(__name__)

PENDING = 1024
"""Jobs that wait; who asks for more waits to ask."""

GROUP = 128
"""Jobs of one transaction."""

CLOSE_TIMEOUT = 3.0
"""Seconds that jobs have to be done when the database is closed."""

T = TypeVar("T")


class _Job:
    """A write that somebody asked for."""

    def __init__(self, work: Work[Any]) -> None:
        self._work = work
        self._session: Session | None = None
        self._result: Any = None
        self.done: Future[Any] = asyncio.get_running_loop().create_future()
        self.error: Exception | None = None

    async def attempt(self, connection: aiosqlite.Connection, path: str) -> bool:
        """Do it, without telling anybody; False when it raised something."""
        self._session, self.error = Session(connection), None
        try:
            with translated(path):
                self._result = await self._work(self._session)
        except Exception as error:  # noqa: BLE001 - it is the asker's
            self.error = error
        return self.error is None

    def settle(self) -> None:
        """Publish and tell, now that it is certain what came of it."""
        if self.error is None and self._session is not None:
            self._session.committed()
        if self.done.cancelled():
            return
        if self.error is None:
            self.done.set_result(self._result)
        else:
            self.done.set_exception(self.error)


class Writer:
    """Writes through one connection.

    Args:
        path: The database, for messages.
        connection: Nobody else writes through it.
    """

    def __init__(self, path: str, connection: aiosqlite.Connection) -> None:
        self._path = path
        self._connection = connection
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue(PENDING)

    async def write(self, work: Work[T]) -> T:
        """What ``work`` returns, once it is committed.

        Raises:
            StoreError: The database failed; nothing was changed.
            Exception: What ``work`` raised; nothing was changed.
        """
        job = _Job(work)
        await self._jobs.put(job)
        result: T = await job.done
        return result

    async def run(self) -> None:
        """Do what is asked for, for ever."""
        while True:
            group = [await self._jobs.get()]
            while len(group) < GROUP and not self._jobs.empty():
                group.append(self._jobs.get_nowait())
            try:
                await self._do(group)
            finally:
                for _ in group:
                    self._jobs.task_done()

    async def drain(self) -> None:
        """Wait until everything that was asked for is done, but not for ever."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._jobs.join()
        except TimeoutError:
            log.warning("writes given up", pending=self._jobs.qsize())

    async def _do(self, group: Sequence[_Job]) -> None:
        if len(group) > 1 and await self._do_together(group):
            return
        for job in group:
            if not job.done.cancelled():
                await self._do_alone(job)

    async def _do_together(self, group: Sequence[_Job]) -> bool:
        """Do jobs in one transaction; False: it failed, nothing was changed, nobody told."""
        begun = []
        try:
            with translated(self._path):
                await self._connection.execute("BEGIN IMMEDIATE")
                for job in group:
                    if not job.done.cancelled():
                        await self._do_part(job)
                        begun.append(job)
                await self._connection.commit()
        except StoreError:
            await self._connection.rollback()
            return False
        for job in begun:
            job.settle()
        return True

    async def _do_part(self, job: _Job) -> None:
        """Do a job so that it can be undone without the others.

        After some errors SQLite has undone everything: there is no savepoint any more, and the
        whole transaction fails.
        """
        await self._connection.execute("SAVEPOINT job")
        if not await job.attempt(self._connection, self._path):
            await self._connection.execute("ROLLBACK TO job")
        await self._connection.execute("RELEASE job")

    async def _do_alone(self, job: _Job) -> None:
        try:
            with translated(self._path):
                await self._connection.execute("BEGIN IMMEDIATE")
                if await job.attempt(self._connection, self._path):
                    await self._connection.commit()
        except StoreError as error:
            job.error = error
        if job.error is not None:
            await self._connection.rollback()
        job.settle()

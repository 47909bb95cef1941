"""The SQLite file: connections, transactions, schema versions.

Words: a *session* is one transaction's view of the database. All writes go through one
writer task, one transaction after the other; whoever asked for a write may be cancelled,
the write and its publication are not. Reads use connections of their own, so that a long
one holds up nobody (a database in memory has only one connection: there they take turns).

Invariants: a write is acknowledged, and its changes published, only when it is committed;
changes are published in the order of their commits; a file is used by one controller at a
time; every sqlite3 error leaves as a StoreError.

Source: control-plane.md, Storage.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib import resources
from typing import TypeVar

import aiosqlite

from outrelay.controller.feed import Feed
from outrelay.lib.errors import StoreError
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.tasks import beside

log = get_logger(__name__)

IN_MEMORY = ":memory:"
APPLICATION_ID = 0x4F525031
"""Marks a file as ours: "ORP1"."""

OLDEST_SQLITE = (3, 35, 0)
"""The first with RETURNING."""

READERS = 4
PENDING_WRITES = 1024
CLOSE_TIMEOUT = 3.0

T = TypeVar("T")
Value = str | int
Parameters = Mapping[str, Value]
Row = sqlite3.Row


class Session:
    """One transaction."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._publications: list[Callable[[], None]] = []

    async def rows(self, statement: str, parameters: Parameters | None = None) -> list[Row]:
        """All rows of a query, or of what a statement returns."""
        return list(await self._connection.execute_fetchall(statement, parameters or {}))

    async def row(self, statement: str, parameters: Parameters | None = None) -> Row | None:
        """Its first row, if there is one."""
        return next(iter(await self.rows(statement, parameters)), None)

    async def change(self, statement: str, parameters: Parameters) -> int:
        """Run a statement; the number of rows it changed."""
        async with self._connection.execute(statement, parameters) as cursor:
            return cursor.rowcount

    async def change_all(self, statement: str, rows: Sequence[Parameters]) -> None:
        """Run a statement once for each of ``rows``."""
        async with self._connection.executemany(statement, rows):
            pass

    async def revision(self) -> int:
        """The revision of the last change this transaction sees."""
        row = await self.row("SELECT number FROM revision")
        assert row is not None
        return int(row["number"])

    async def next_revision(self) -> int:
        """A revision for a change made by this transaction."""
        row = await self.row("UPDATE revision SET number = number + 1 RETURNING number")
        assert row is not None
        return int(row["number"])

    def publish(self, feed: Feed[T], change: T) -> None:
        """Publish ``change`` when, and only if, this transaction is committed."""
        self._publications.append(lambda: feed.publish(change))

    def committed(self) -> None:
        """Publish what was held back; the database calls it."""
        for publication in self._publications:
            publication()


Work = Callable[[Session], Awaitable[T]]


class Database:
    """An open database; make one with ``open_database``."""

    def __init__(
        self, path: str, writer: aiosqlite.Connection, readers: list[aiosqlite.Connection]
    ) -> None:
        self._path = path
        self._writer = writer
        self._jobs: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue(PENDING_WRITES)
        self._readers: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue(READERS)
        self._shared = not readers
        for reader in readers:
            self._readers.put_nowait(reader)

    async def write(self, work: Work[T]) -> T:
        """What ``work`` returns, once the transaction it ran in is committed.

        Raises:
            StoreError: The database failed; nothing was changed.
            Exception: What ``work`` raised; nothing was changed.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def job() -> None:
            if not done.cancelled():
                await self._commit(work, done)

        await self._jobs.put(job)
        return await done

    async def read(self, work: Work[T]) -> T:
        """What ``work`` returns; all it reads is of one moment.

        Raises:
            StoreError: The database failed.
            Exception: What ``work`` raised.
        """
        if self._shared:
            return await self.write(work)
        reader = await self._readers.get()
        try:
            with translated(self._path):
                await reader.execute("BEGIN")
                return await work(Session(reader))
        finally:
            try:
                await reader.rollback()
            finally:
                self._readers.put_nowait(reader)

    async def run_writer(self) -> None:
        """Run the writes that are asked for, one by one, for ever."""
        while True:
            job = await self._jobs.get()
            try:
                await job()
            finally:
                self._jobs.task_done()

    async def drain(self) -> None:
        """Wait until every write that was asked for is done, but not for ever."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._jobs.join()
        except TimeoutError:
            log.warning("writes given up", pending=self._jobs.qsize())

    async def _commit(self, work: Work[T], done: asyncio.Future[T]) -> None:
        session = Session(self._writer)
        try:
            with translated(self._path):
                await self._writer.execute("BEGIN IMMEDIATE")
                result = await work(session)
                await self._writer.commit()
        except Exception as error:  # noqa: BLE001 - it is the asker's
            await self._writer.rollback()
            if not done.cancelled():
                done.set_exception(error)
            return
        session.committed()
        if not done.cancelled():
            done.set_result(result)


@asynccontextmanager
async def open_database(path: str) -> AsyncIterator[Database]:
    """Open the file, bring its schema up to date, close it in the end.

    Args:
        path: The file, made when absent (mode 0600), or ``:memory:``.

    Raises:
        StoreError: It cannot be used: another program's, another controller's, newer, broken.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise StoreError(path, f"needs SQLite {needed}, this is {sqlite3.sqlite_version}")
    async with AsyncExitStack() as stack:
        if path != IN_MEMORY:
            stack.enter_context(_lock(path))
        with translated(path):
            writer = await stack.enter_async_context(_connect(path))
            await _set_up(writer, path)
            readers = 0 if path == IN_MEMORY else READERS
            connections = [await stack.enter_async_context(_connect(path)) for _ in range(readers)]
            for reader in connections:
                await reader.execute("PRAGMA query_only = ON")
        database = Database(path, writer, connections)
        await stack.enter_async_context(beside(database.run_writer(), name="store: writer"))
        stack.push_async_callback(database.drain)
        yield database


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into StoreErrors."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(path, str(error)) from error
    except OSError as error:
        raise StoreError(path, error.strerror or str(error)) from error


@contextmanager
def _lock(path: str) -> Iterator[None]:
    """Keep a second controller, which would not hear of our changes, from using the file.

    Closing any descriptor of a file drops the locks SQLite holds on it: this one is opened
    before SQLite's and closed after them.
    """
    with translated(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreError(path, "is used by another controller; stop it, or give --db") from error
    try:
        yield
    finally:
        os.close(descriptor)


@asynccontextmanager
async def _connect(path: str) -> AsyncIterator[aiosqlite.Connection]:
    async with aiosqlite.connect(path, isolation_level=None, timeout=5.0) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


async def _set_up(connection: aiosqlite.Connection, path: str) -> None:
    await _check_ours(connection, path)
    await connection.execute("PRAGMA journal_mode = WAL")
    await connection.execute("PRAGMA synchronous = FULL")
    await connection.execute("PRAGMA foreign_keys = ON")
    await migrate(connection, path, migrations())


async def _check_ours(connection: aiosqlite.Connection, path: str) -> None:
    application = await _pragma(connection, "application_id")
    tables = await connection.execute_fetchall("SELECT 1 FROM sqlite_schema LIMIT 1")
    if application != APPLICATION_ID and tables:
        raise StoreError(path, "is another program's database; give a file of its own to --db")


def migrations() -> list[str]:
    """The scripts that lead from version 0 to the newest, in order."""
    scripts = resources.files("outrelay.controller.store") / "migrations"
    files = [each for each in scripts.iterdir() if each.name.endswith(".sql")]
    return [each.read_text("utf-8") for each in sorted(files, key=lambda each: each.name)]


async def migrate(connection: aiosqlite.Connection, path: str, scripts: list[str]) -> None:
    """Bring the schema to version ``len(scripts)``, each step in a transaction of its own.

    Raises:
        StoreError: The database is newer than that.
    """
    version = await _pragma(connection, "user_version")
    if version > len(scripts):
        text = f"has schema version {version}, this controller knows {len(scripts)}; upgrade it"
        raise StoreError(path, text)
    for number, script in enumerate(scripts[version:], version + 1):
        step = (
            f"BEGIN IMMEDIATE; {script}\n; PRAGMA application_id = {APPLICATION_ID};"
            f" PRAGMA user_version = {number}; COMMIT;"
        )
        try:
            await connection.executescript(step)
        except sqlite3.Error:
            await connection.rollback()
            raise
        log.info("schema migrated", database=path, version=number)


async def _pragma(connection: aiosqlite.Connection, name: str) -> int:
    (row,) = await connection.execute_fetchall(f"PRAGMA {name}")
    return int(row[0])

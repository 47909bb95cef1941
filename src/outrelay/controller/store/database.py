"""The SQLite file: whose it is, connections, schema versions.

All writes go through one writer. Reads use connections of their own, so that a long one
holds up nobody (a database in memory has only one connection: there they take turns).

Invariants: a file is used by one controller at a time; every sqlite3 error leaves as a
StoreError.

Source: control-plane.md, Storage.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib import resources
from typing import TypeVar

import aiosqlite

from outrelay.controller.store.session import Session, Work, translated
from outrelay.controller.store.writer import Writer
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

T = TypeVar("T")


class Database:
    """An open database; make one with ``open_database``.

    Args:
        path: The file, for messages.
        writer: Does all that changes something.
        readers: Connections for reading; none: the writer reads, too.
    """

    def __init__(self, path: str, writer: Writer, readers: list[aiosqlite.Connection]) -> None:
        self._path = path
        self._readers: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue(READERS)
        self._shared = not readers
        self.write = writer.write
        for reader in readers:
            self._readers.put_nowait(reader)

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
            connection = await stack.enter_async_context(_connect(path))
            await _set_up(connection, path)
            readers = 0 if path == IN_MEMORY else READERS
            connections = [await stack.enter_async_context(_connect(path)) for _ in range(readers)]
            for reader in connections:
                await reader.execute("PRAGMA query_only = ON")
        writer = Writer(path, connection)
        await stack.enter_async_context(beside(writer.run(), name="store: writer"))
        stack.push_async_callback(writer.drain)
        yield Database(path, writer, connections)


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

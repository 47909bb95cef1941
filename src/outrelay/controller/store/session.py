"""One transaction's view of the database, and errors in our words.

Invariant: every sqlite3 error leaves as a StoreError.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import aiosqlite

from outrelay.controller.feed import Publisher
from outrelay.lib import advice
from outrelay.lib.errors import StoreError

T = TypeVar("T")
Value = str | int
Parameters = Mapping[str, Value]
Row = sqlite3.Row


_RESTORE = "restore a backup, or give another file to --db"
_ACCESS = "let this user write to the file and its directory"
_FIXES = {
    sqlite3.SQLITE_NOTADB: _RESTORE,
    sqlite3.SQLITE_CORRUPT: _RESTORE,
    sqlite3.SQLITE_READONLY: _ACCESS,
    sqlite3.SQLITE_CANTOPEN: _ACCESS,
    sqlite3.SQLITE_FULL: "free some space",
    sqlite3.SQLITE_IOERR: "look at the disk, and at the space on it",
    sqlite3.SQLITE_BUSY: "stop what else uses the file",
}
"""What to do, by SQLite's primary result code."""


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into StoreErrors."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # above it are details
        raise StoreError(path, str(error), _FIXES.get(code, "")) from error
    except OSError as error:
        raise StoreError(path, error.strerror or str(error), advice.on_file(error)) from error


class Session:
    """One transaction, or one job's part of it."""

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

    def publish(self, feed: Publisher[T], change: T) -> None:
        """Publish ``change`` when, and only if, this transaction is committed."""
        self._publications.append(lambda: feed.publish(change))

    def committed(self) -> None:
        """Publish what was held back; the writer calls it."""
        for publication in self._publications:
            publication()


Work = Callable[[Session], Awaitable[T]]
"""What is done in a transaction. It may be done twice, of which only the last time counts."""

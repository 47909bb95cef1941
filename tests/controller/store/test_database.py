"""The SQLite file: migrations, whose it is, transactions and who may interrupt them."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import aiosqlite
import pytest

from outrelay.controller.feed import Feed
from outrelay.controller.store import database, writer
from outrelay.controller.store.database import (
    APPLICATION_ID,
    IN_MEMORY,
    migrate,
    migrations,
    open_database,
)
from outrelay.controller.store.session import Session
from outrelay.lib.errors import StoreError
from outrelay.lib.tasks import spawn

TABLES = {"revision", "relay_instances", "services", "policies", "audit_events"}


def pragma(path: Path, name: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        return {name for (name,) in rows}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "controller.db"


class TestSchema:
    async def test_a_new_file_is_brought_to_the_newest_version(self, path: Path) -> None:
        async with open_database(str(path)):
            pass
        assert tables(path) >= TABLES
        assert pragma(path, "user_version") == len(migrations()) == 2
        assert pragma(path, "application_id") == APPLICATION_ID
        assert mode(path) == 0o600

    async def test_an_existing_file_keeps_what_is_in_it(self, path: Path) -> None:
        async with open_database(str(path)) as first:
            revision = await first.write(Session.next_revision)
        async with open_database(str(path)) as second:
            assert await second.read(Session.revision) == revision == 1

    async def test_later_migrations_are_applied_one_by_one(self, path: Path) -> None:
        async with aiosqlite.connect(path, isolation_level=None) as connection:
            await migrate(connection, "db", ["CREATE TABLE one (x)"])
            await migrate(
                connection, "db", ["never run again", "CREATE TABLE two (x)", "DROP TABLE one"]
            )
        assert tables(path) == {"two"}
        assert pragma(path, "user_version") == 3

    async def test_one_that_fails_changes_nothing(self, path: Path) -> None:
        async with aiosqlite.connect(path, isolation_level=None) as connection:
            with pytest.raises(sqlite3.OperationalError):
                await migrate(connection, "db", ["CREATE TABLE one (x); CREATE TABLE one (x)"])
        assert tables(path) == set()
        assert pragma(path, "user_version") == 0

    async def test_a_newer_file_is_refused_and_left_alone(self, path: Path) -> None:
        async with open_database(str(path)):
            pass
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 99")
        with pytest.raises(StoreError, match="schema version 99, this controller knows 2; upgr"):
            async with open_database(str(path)):
                pass
        assert pragma(path, "user_version") == 99


class TestFile:
    async def test_another_programs_database_is_refused(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE policies (id)")
        with pytest.raises(StoreError, match="another program's database"):
            async with open_database(str(path)):
                pass
        assert tables(path) == {"policies"}

    @pytest.fixture
    def garbage(self, path: Path) -> Path:
        path.write_bytes(b"not a database, long enough to be looked at" * 100)
        return path

    async def test_a_file_that_is_no_database_is_refused(self, garbage: Path) -> None:
        with pytest.raises(StoreError, match=r"controller\.db: file is not a database"):
            async with open_database(str(garbage)):
                pass

    async def test_a_file_that_cannot_be_made_is_an_error_that_names_it(
        self, tmp_path: Path
    ) -> None:
        with pytest.raises(StoreError, match=r"missing/x\.db: No such file"):
            async with open_database(str(tmp_path / "missing" / "x.db")):
                pass

    async def test_it_has_one_controller_at_a_time(self, path: Path) -> None:
        async with open_database(str(path)):
            with pytest.raises(StoreError, match="used by another controller"):
                async with open_database(str(path)):
                    pass
        async with open_database(str(path)):
            pass

    async def test_sqlite_must_be_new_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database, "OLDEST_SQLITE", (99, 0, 0))
        with pytest.raises(StoreError, match=r"needs SQLite 99\.0\.0"):
            async with open_database(IN_MEMORY):
                pass


@pytest.fixture(params=["file", "memory"])
def anywhere(request: pytest.FixtureRequest, path: Path) -> str:
    return str(path) if request.param == "file" else IN_MEMORY


class TestTransactions:
    async def test_what_fails_changes_and_publishes_nothing(self, anywhere: str) -> None:
        feed = Feed[str]()

        async def work(session: Session) -> None:
            await session.next_revision()
            session.publish(feed, "never")
            raise LookupError("no")

        async with open_database(anywhere) as db:
            with feed.subscribe(lambda _: True) as changes:
                with pytest.raises(LookupError):
                    await db.write(work)
                assert not changes._changes
            assert await db.read(Session.revision) == 0
            assert await db.write(Session.next_revision) == 1

    async def test_errors_of_sqlite_are_store_errors(self, anywhere: str) -> None:
        async with open_database(anywhere) as db:
            for ask in (db.read, db.write):
                with pytest.raises(StoreError, match="no such table: nowhere"):
                    await ask(lambda session: session.rows("SELECT * FROM nowhere"))
            assert await db.read(Session.revision) == 0

    async def test_reads_cannot_write(self, path: Path) -> None:
        async with open_database(str(path)) as db:
            with pytest.raises(StoreError, match="readonly"):
                await db.read(Session.next_revision)

    async def test_a_write_goes_on_when_its_asker_is_cancelled(self, path: Path) -> None:
        feed = Feed[str]()
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def work(session: Session) -> None:
            await session.next_revision()
            session.publish(feed, "done")
            begun.set()
            await go_on.wait()

        async with open_database(str(path)) as db:
            with feed.subscribe(lambda _: True) as changes:
                async with asyncio.TaskGroup() as group:
                    asker = spawn(group, db.write(work), name="asker")
                    await begun.wait()
                    asker.cancel()
                go_on.set()
                assert await anext(changes) == "done"
            assert await db.read(Session.revision) == 1

    async def test_a_write_nobody_waits_for_any_more_is_not_begun(self, path: Path) -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def block(_session: Session) -> None:
            begun.set()
            await go_on.wait()

        async with open_database(str(path)) as db, asyncio.TaskGroup() as group:
            spawn(group, db.write(block), name="first")
            await begun.wait()
            second = spawn(group, db.write(Session.next_revision), name="second")
            await asyncio.sleep(0)
            second.cancel()
            go_on.set()
            assert await db.write(Session.revision) == 0

    async def test_a_read_sees_one_moment(self, path: Path) -> None:
        read_once, written = asyncio.Event(), asyncio.Event()

        async def read_twice(session: Session) -> tuple[int, int]:
            before = await session.revision()
            read_once.set()
            await written.wait()
            return before, await session.revision()

        async with open_database(str(path)) as db, asyncio.TaskGroup() as group:
            reading = spawn(group, db.read(read_twice), name="reader")
            await read_once.wait()
            await db.write(Session.next_revision)
            written.set()
            assert await reading == (0, 0)
            assert await db.read(Session.revision) == 1

    async def test_a_cancelled_read_gives_its_connection_back(self, path: Path) -> None:
        async with open_database(str(path)) as db:
            for _ in range(2 * database.READERS):
                begun = asyncio.Event()

                async def wait(_session: Session, begun: asyncio.Event = begun) -> None:
                    begun.set()
                    await asyncio.Event().wait()

                async with asyncio.TaskGroup() as group:
                    reading = spawn(group, db.read(wait), name="reader")
                    await begun.wait()
                    reading.cancel()
            assert await db.read(Session.revision) == 0

    async def test_changes_are_published_in_the_order_of_their_commits(self, path: Path) -> None:
        feed = Feed[int]()

        async def work(session: Session) -> None:
            session.publish(feed, await session.next_revision())

        async with open_database(str(path)) as db:
            with feed.subscribe(lambda _: True) as changes:
                async with asyncio.TaskGroup() as group:
                    for number in range(50):
                        spawn(group, db.write(work), name=f"writer {number}")
                assert [await anext(changes) for _ in range(50)] == list(range(1, 51))

    async def test_what_was_asked_for_is_written_before_the_file_is_closed(
        self, path: Path
    ) -> None:
        async with asyncio.TaskGroup() as group, open_database(str(path)) as db:
            for number in range(20):
                spawn(group, db.write(Session.next_revision), name=f"writer {number}")
            await asyncio.sleep(0)
        async with open_database(str(path)) as db:
            assert await db.read(Session.revision) == 20

    async def test_closing_does_not_wait_for_ever(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writer, "CLOSE_TIMEOUT", 0.01)
        begun = asyncio.Event()

        async def hang(_session: Session) -> None:
            begun.set()
            await asyncio.Event().wait()

        async with asyncio.TaskGroup() as group:
            async with open_database(str(path)) as db:
                asker = spawn(group, db.write(hang), name="asker")
                await begun.wait()
            asker.cancel()

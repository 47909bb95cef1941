"""Groups of writes: one transaction, and still nobody answers for another's failure."""

from __future__ import annotations

import asyncio
import sqlite3
from asyncio import Task, TaskGroup
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite
import pytest

from outrelay.controller.feed import Feed
from outrelay.controller.store.database import Database, open_database
from outrelay.controller.store.session import Session, Work
from outrelay.lib.errors import StoreError
from outrelay.lib.tasks import spawn

SAME = "INSERT INTO revision VALUES (1, 1)"  # which is there already


class Group:
    """Writes that are asked for while another one holds them up, and then done together."""

    def __init__(self, database: Database, tasks: TaskGroup) -> None:
        self.database = database
        self.feed: Feed[int] = Feed()
        self.go_on = asyncio.Event()
        self._tasks = tasks

    def ask(self, work: Work[int]) -> Task[int | str]:
        """Ask for a write; what comes of it."""
        return spawn(self._tasks, self._outcome(work), name="asker")

    def count(self) -> Task[int | str]:
        """Ask for a revision that is published."""
        return self.ask(self._next)

    async def _outcome(self, work: Work[int]) -> int | str:
        try:
            return await self.database.write(work)
        except (StoreError, LookupError) as error:
            return str(error)

    async def _next(self, session: Session) -> int:
        revision = await session.next_revision()
        session.publish(self.feed, revision)
        return revision


@asynccontextmanager
async def group(path: Path) -> AsyncIterator[Group]:
    """A group that waits for ``go_on``."""
    async with open_database(str(path / "db")) as database, TaskGroup() as tasks:
        made = Group(database, tasks)
        begun = asyncio.Event()

        async def hold(_session: Session) -> None:
            begun.set()
            await made.go_on.wait()

        spawn(tasks, database.write(hold), name="the one before")
        await begun.wait()
        yield made


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows with each commit; put True first to have as many fail."""
    made: list[bool] = []
    commit = aiosqlite.Connection.commit

    async def counted(connection: aiosqlite.Connection) -> None:
        if made and made[0]:
            del made[0]
            raise sqlite3.OperationalError("disk I/O error")
        made.append(False)
        await commit(connection)

    monkeypatch.setattr(aiosqlite.Connection, "commit", counted)
    return made


async def test_writes_that_wait_are_one_transaction(tmp_path: Path, commits: list[bool]) -> None:
    async with group(tmp_path) as made:
        asked = [made.count() for _ in range(20)]
        await asyncio.sleep(0)
        with made.feed.subscribe(lambda _: True) as published:
            made.go_on.set()
            assert await asyncio.gather(*asked) == list(range(1, 21))
            assert [await anext(published) for _ in asked] == list(range(1, 21))
    assert len(commits) == 2  # with the one that held them up


async def test_nobody_is_told_before_all_is_committed(tmp_path: Path) -> None:
    async with group(tmp_path) as made:
        reached, last = asyncio.Event(), asyncio.Event()

        async def slow(_session: Session) -> int:
            reached.set()
            await last.wait()
            return 0

        first = made.count()
        second = made.ask(slow)
        await asyncio.sleep(0)
        with made.feed.subscribe(lambda _: True) as published:
            made.go_on.set()
            await reached.wait()
            assert not first.done()
            assert not published._changes
            last.set()
            assert (await first, await second) == (1, 0)
            assert await anext(published) == 1


async def test_one_that_fails_fails_alone(tmp_path: Path, commits: list[bool]) -> None:
    async def give_up(session: Session) -> int:
        await session.next_revision()
        raise LookupError("no")

    async def repeat(session: Session) -> int:
        await session.next_revision()
        return await session.change(SAME, {})

    async with group(tmp_path) as made:
        asked = [made.count(), made.ask(give_up), made.count(), made.ask(repeat), made.count()]
        await asyncio.sleep(0)
        with made.feed.subscribe(lambda _: True) as published:
            made.go_on.set()
            first, gave_up, second, repeated, third = await asyncio.gather(*asked)
            assert (first, second, third) == (1, 2, 3)
            assert gave_up == "no"
            assert "UNIQUE constraint failed" in str(repeated)
            assert [await anext(published) for _ in range(3)] == [1, 2, 3]
            assert not published._changes
        assert await made.database.read(Session.revision) == 3
    assert len(commits) == 2


async def test_where_the_whole_fails_each_is_done_alone(
    tmp_path: Path, commits: list[bool]
) -> None:
    async with group(tmp_path) as made:
        asked = [made.count() for _ in range(3)]
        gone = made.count()
        await asyncio.sleep(0)
        with made.feed.subscribe(lambda _: True) as published:
            while not commits:  # the one that holds them up is committed first
                made.go_on.set()
                await asyncio.sleep(0)
            commits.insert(0, True)
            gone.cancel()
            assert await asyncio.gather(*asked) == [1, 2, 3]
            assert [await anext(published) for _ in range(3)] == [1, 2, 3]
            assert not published._changes
    assert len(commits) == 4


async def test_one_that_ends_the_transaction_for_all_harms_nobody_else(tmp_path: Path) -> None:
    async def undo_everything(session: Session) -> int:
        """As SQLite does it when the disk is full."""
        await session.change("ROLLBACK", {})
        raise LookupError("full")

    async with group(tmp_path) as made:
        asked = [made.count(), made.ask(undo_everything), made.count()]
        await asyncio.sleep(0)
        made.go_on.set()
        assert await asyncio.gather(*asked) == [1, "full", 2]
        assert await made.database.read(Session.revision) == 2


async def test_a_commit_that_fails_for_good_is_told(tmp_path: Path, commits: list[bool]) -> None:
    async with open_database(str(tmp_path / "db")) as database:
        commits.insert(0, True)
        with pytest.raises(StoreError, match="disk I/O error"):
            await database.write(Session.next_revision)
        assert await database.read(Session.revision) == 0
        assert await database.write(Session.next_revision) == 1


async def test_what_is_asked_for_while_a_group_is_written_is_the_next_group(
    tmp_path: Path, commits: list[bool]
) -> None:
    async with group(tmp_path) as made:
        asked: list[Task[int | str]] = []

        async def ask_more(_session: Session) -> int:
            asked.extend(made.count() for _ in range(5))
            await asyncio.sleep(0)
            return 0

        first = made.ask(ask_more)
        made.go_on.set()
        await first
        assert await asyncio.gather(*asked) == [1, 2, 3, 4, 5]
    assert len(commits) == 3

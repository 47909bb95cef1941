"""Asking the controller where a service is: seldom, briefly, and only when the copy cannot tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.tasks import spawn
from outrelay.relay import resolver as module
from outrelay.relay.directory import Directory
from outrelay.relay.edge.session import Roster
from outrelay.relay.resolver import Resolver
from tests.relay.fake_controller import FakeController, fake_controller
from tests.relay.test_directory import row


@dataclass(kw_only=True)
class Made:
    """A resolver, whom it asks, and its clock."""

    fake: FakeController
    directory: Directory
    resolver: Resolver
    now: float = 100.0

    async def relays(self, name: str = "echo", tenant: str = "acme") -> set[str]:
        return await self.resolver.relays_of(tenant, name)

    @property
    def asked(self) -> list[str]:
        """What the controller was asked for."""
        made = self.fake.calls.of("Resolve", registry.ResolveRequest)
        return [f"{request.tenant}/{request.service_name}" for request in made]


@asynccontextmanager
async def resolver(directory: Path) -> AsyncIterator[Made]:
    async with fake_controller(directory) as fake, fake.line() as controller:
        copy = Directory(Roster(1))
        made = Made(
            fake=fake,
            directory=copy,
            resolver=Resolver(controller, copy, "here", now=lambda: made.now),
        )
        yield made


async def test_a_complete_copy_is_believed_and_nobody_asked(tmp_path: Path) -> None:
    async with resolver(tmp_path) as made:
        made.fake.rows = [row(relay="r3")]
        made.directory.replace({})
        made.directory.add(row(relay="r2"))

        assert await made.relays() == {"r2"}
        assert await made.relays("other") == set()
        assert made.asked == []

        made.directory.forget()
        assert await made.relays() == {"r3"}
        [request] = made.fake.calls.of("Resolve", registry.ResolveRequest)
        assert request.caller_region == "here"


@pytest.mark.parametrize("rows", [[], [row(relay="r2"), row(relay="r3")]])
async def test_an_answer_is_believed_for_a_while_also_that_there_is_nobody(
    tmp_path: Path, rows: list[registry.Provider]
) -> None:
    async with resolver(tmp_path) as made:
        made.fake.rows = rows
        for _ in range(3):
            assert await made.relays() == {each.relay_id for each in rows}
        await made.relays(tenant="globex")
        assert made.asked == ["acme/echo", "globex/echo"]

        made.now += module.BELIEVED
        await made.relays()
        assert made.asked[2:] == ["acme/echo"]


async def test_no_answer_is_nobody_and_not_asked_for_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.05)
    async with resolver(tmp_path) as made:
        made.fake.failures["Resolve"] = grpc.StatusCode.INTERNAL
        assert await made.relays("one") == set()
        made.fake.silent = True
        assert await made.relays("two") == await made.relays("two") == set()
        assert made.asked == ["acme/one", "acme/two"]


async def test_many_who_ask_the_same_are_one_question(tmp_path: Path) -> None:
    async with resolver(tmp_path) as made, asyncio.TaskGroup() as group:
        made.fake.rows = [row(relay="r2")]
        asking = [spawn(group, made.relays(), name=f"asker {n}") for n in range(20)]
        assert await asyncio.gather(*asking) == [{"r2"}] * 20
        assert made.asked == ["acme/echo"]


async def test_who_goes_away_leaves_nobody_waiting(tmp_path: Path) -> None:
    async with resolver(tmp_path) as made, asyncio.TaskGroup() as group:
        made.fake.silent = True
        first = spawn(group, made.relays(), name="first")
        await made.fake.calls.number("Resolve", 1)
        second = spawn(group, made.relays(), name="second")
        await asyncio.sleep(0)
        first.cancel()
        assert await second == set()

        made.fake.silent = False
        made.fake.rows = [row(relay="r2")]
        assert await made.relays() == {"r2"}


async def test_questions_and_answers_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 1)
    monkeypatch.setattr(module, "REMEMBERED", 2)
    async with resolver(tmp_path) as made, asyncio.TaskGroup() as group:
        made.fake.silent = True
        first = spawn(group, made.relays("one"), name="first")
        await made.fake.calls.number("Resolve", 1)
        assert await made.relays("two") == set()
        other = spawn(group, made.relays("two", tenant="globex"), name="of another tenant")
        await made.fake.calls.number("Resolve", 2)
        assert made.asked == ["acme/one", "globex/two"]
        other.cancel()
        first.cancel()
        await asyncio.wait([first, other])

        made.fake.silent = False
        await made.relays("a", tenant="globex")
        for name in "abcbca":
            await made.relays(name)
        await made.relays("a", tenant="globex")  # what another tenant was told is not forgotten
        assert made.asked[2:] == ["globex/a", "acme/a", "acme/b", "acme/c", "acme/a"]

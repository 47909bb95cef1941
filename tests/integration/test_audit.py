"""What happened is in the trail once, whoever was away or died meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from outrelay.lib.identity.uri import Identity, Role
from outrelay.relay.audit.record import decode
from tests.integration.attackers import Mallories
from tests.integration.peers import answer_to, echo
from tests.integration.world import ALLOWED, APP, TENANT, World, outrelay_world
from tests.support.patience import PATIENCE
from tests.support.peers import FEATURES, accept
from tests.support.processes import run

pytestmark = pytest.mark.asyncio(loop_scope="session")

SMALL = "64KiB"
"""A spool in which a tenant alone has room for about a hundred events."""

GLOBEX = "globex"

Trail = list[dict[str, Any]]


async def calls(world: World, count: int) -> None:
    """Have the application call so often, one after the other."""
    async with world.backend.serving(echo):
        for _ in range(count):
            assert await answer_to(world.at[APP], b"hello") == b"hello"


async def calls_until_refused(world: World) -> int:
    """Call until a call is refused; how many were not."""
    async with world.backend.serving(echo):
        for made in range(1000):
            try:
                assert await answer_to(world.at[APP], b"hello") == b"hello"
            except ConnectionError:
                return made
    raise AssertionError("no call was refused")


async def calls_again(world: World) -> int:
    """Call until a call is answered; 1, which that is."""
    async with world.backend.serving(echo), asyncio.timeout(PATIENCE):
        while True:
            try:
                assert await answer_to(world.at[APP], b"hello") == b"hello"
            except ConnectionError:
                continue
            return 1


async def trail(world: World, enough: Callable[[Trail], bool]) -> Trail:
    """The tenant's trail, once there is enough in it; it gets there within moments."""
    query = ("audit", "query", "--tenant", TENANT, "--limit", "0", "--output", "json")
    async with asyncio.timeout(PATIENCE):
        while True:
            done = await world.cli(*query)
            assert done.code == 0, done
            found = [json.loads(line) for line in done.stdout.splitlines()]
            if enough(found):
                return found


def of(found: Trail, event: str) -> Trail:
    return [each for each in found if each["event"] == event]


async def assert_told_once(world: World, count: int) -> None:
    """The open and the close of ``count`` streams are in the trail, each once."""
    found = await trail(world, lambda found: len(of(found, "close")) >= count)
    for event in ("open", "close"):
        streams = Counter(each["stream_id"] for each in of(found, event))
        assert len(streams) == count
        assert set(streams.values()) == {1}
    assert len({each["event_id"] for each in found}) == len(found)


@asynccontextmanager
async def spooling(directory: Path, *flags: str) -> AsyncIterator[tuple[World, Path]]:
    """A world whose relay has a spool, and where that is."""
    spool = directory / "spool"
    async with outrelay_world(directory, "--audit-spool", spool, *flags) as world:
        yield world, spool


async def spooled(spool: Path, count: int) -> None:
    """Return once so many events of streams are in the files."""
    async with asyncio.timeout(PATIENCE):
        while _in_files(spool) != count:  # noqa: ASYNC110 - another process writes them
            await asyncio.sleep(0.01)


def _in_files(spool: Path) -> int:
    with suppress(FileNotFoundError):  # sent between two looks
        records = [each for path in spool.glob("*.audit") for each in decode(path.read_bytes())[0]]
        return sum(bool(each.decoded().stream_id) for each in records)  # the rest: registrations
    return -1


async def test_the_controller_is_told_what_happened_while_it_was_gone(own_world: World) -> None:
    world = own_world
    await calls(world, 3)
    address = await world.controller_address()
    await world.controller.stop(signal.SIGKILL)
    await calls(world, 5)
    await world.start_controller(address)
    await calls(world, 2)
    await assert_told_once(world, 10)


async def test_a_relay_that_is_killed_tells_the_rest_when_it_is_back(tmp_path: Path) -> None:
    async with spooling(tmp_path) as (world, spool):
        controller = await world.controller_address()
        await calls(world, 3)
        await assert_told_once(world, 3)
        await spooled(spool, 0)
        await world.controller.stop(signal.SIGKILL)
        await calls(world, 5)
        await spooled(spool, 10)
        second = await run(
            "outrelay-relay",
            *("--listen", "127.0.0.1:0", "--controller", controller, "--audit-spool", spool),
            *world.credentials("relay"),
        )
        assert second.code == 78
        assert second.stderr.strip().endswith(
            f"--audit-spool: {spool} is used by another relay; give each relay a folder of its own"
        )

        await world.relay.stop(signal.SIGKILL)
        await world.start_controller(controller)
        await world.restart_relay()
        made = await calls_again(world)
        await assert_told_once(world, 8 + made)
        await spooled(spool, 0)


async def test_a_tenant_over_its_part_is_denied_and_another_is_not(tmp_path: Path) -> None:
    async with spooling(tmp_path, "--audit-spool-size", SMALL) as (world, _):
        operator = Identity(realm=GLOBEX, role=Role.OPERATOR, name="admin")
        world.issue(operator, name="globex-operator")
        await world.allow(ALLOWED, holder="globex-operator")
        controller = await world.controller_address()
        await world.controller.stop(signal.SIGKILL)
        made = await calls_until_refused(world)
        assert 20 < made < 500
        await world.relay.event("no room for audit events: streams are refused", tenant=TENANT)
        async with _globex(world) as opens:
            await opens()

        await world.start_controller(controller)
        made += await calls_again(world)
        await assert_told_once(world, made)
        assert of(await trail(world, lambda found: bool(of(found, "reject"))), "reject")


def _globex(world: World) -> AbstractAsyncContextManager[Callable[[], Any]]:
    """An agent of globex that offers APP, and another that calls it when told to."""

    @asynccontextmanager
    async def agents() -> AsyncIterator[Callable[[], Any]]:
        mallories = Mallories(world, tenant=GLOBEX)
        async with mallories.mallory(*FEATURES) as provider, mallories.mallory(*FEATURES) as caller:
            await provider.register(APP)

            async def opens() -> None:
                stream = await caller.open(APP, stream_id=1)
                far, _ = await provider.incoming()
                await accept(far)
                await caller.ready()
                stream.finish()
                far.finish()

            yield opens

    return agents()


async def test_a_tenant_over_its_part_goes_on_where_losses_are_counted(tmp_path: Path) -> None:
    flags = ("--audit-spool-size", SMALL, "--audit-overflow", "drop")
    async with spooling(tmp_path, *flags) as (world, _):
        controller = await world.controller_address()
        await world.controller.stop(signal.SIGKILL)
        made = 150
        await calls(world, made)
        lost = 0
        async with asyncio.timeout(PATIENCE):
            await world.relay.event("audit events dropped", tenant=TENANT)
            await world.start_controller(controller)

            def all_told(found: Trail) -> bool:
                nonlocal lost
                lines = world.relay.seen("audit events dropped")
                lost = sum(int(str(line.get("times", 1))) for line in lines)
                return len(of(found, "open")) + len(of(found, "close")) + lost == 2 * made

            await trail(world, all_told)
        assert 50 < lost < 2 * made

"""Applications that mean harm to their own agent: others at the same agent do not notice."""

from __future__ import annotations

import asyncio
import random
import socket
from asyncio import StreamReader, StreamWriter, TaskGroup
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import psutil
import pytest
import pytest_asyncio

from outrelay.lib.values import Address
from tests.integration.attackers import GROWTH, Bystander, Watch, unnoticed, until_times
from tests.integration.carriers import ON_BOTH_ENGINES
from tests.integration.peers import MIB, abort, answer_to, calling, ping
from tests.integration.world import ANY_PORT, APP, GHOST, SECRET, World
from tests.support.patience import PATIENCE
from tests.support.processes import Program

pytestmark = pytest.mark.asyncio(loop_scope="session")
CARRIERS = ON_BOTH_ENGINES

RST = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER: on, 0 seconds."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(modules_world: World) -> World:
    """A world of its own: what attacks leave is nobody else's."""
    return modules_world


async def taken(reader: StreamReader, _: StreamWriter) -> None:
    """A backend that reads whatever comes."""
    while await reader.read(65536):
        pass


async def endless(_: StreamReader, writer: StreamWriter) -> None:
    """A backend that sends for ever."""
    while True:
        writer.write(bytes(65536))
        await writer.drain()


@asynccontextmanager
async def at_one_agent(world: World, growth: int = GROWTH) -> AsyncIterator[Bystander]:
    """The consumer's agent is under attack, and must come out as it went in."""
    watch, files = Watch(world.consumer, growth), open_files(world.consumer)
    async with unnoticed(world, others=taken) as somebody:
        yield somebody
        await until_files(world.consumer, files + 1, somebody)  # one is the bystander's
    watch.check()


def open_files(program: Program) -> int:
    """How many file descriptors a program has."""
    return int(psutil.Process(program.pid).num_fds())


async def until_files(program: Program, number: int, somebody: Bystander) -> None:
    """Return when a program has no more descriptors than that."""
    async with asyncio.timeout(10):
        while open_files(program) > number:
            await somebody.go_on(1)


async def test_1000_connects_and_aborts(world: World) -> None:
    """At once, after a word, and while the stream is opened or refused."""
    targets = [world.at[service] for service in (APP, GHOST, SECRET)]
    async with at_one_agent(world) as somebody:
        await asyncio.to_thread(_connect_and_abort, targets, 1_000)
        await somebody.go_on(20)
        assert await answer_to(world.at[APP], b"others are served") == b""


def _connect_and_abort(targets: list[Address], number: int) -> None:
    chance = random.Random(4)
    left: list[socket.socket] = []
    for _ in range(number):
        sock = socket.create_connection(chance.choice(targets))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        left.append(sock)
        with suppress(OSError):
            sock.send(b"a word that nobody waits for"[: chance.randrange(1, 28)])
        if len(left) > chance.randrange(30):
            left.pop(chance.randrange(len(left))).close()
    for sock in left:
        sock.close()


async def test_applications_that_never_read(world: World) -> None:
    number = 10
    growth = number * 7 * MIB  # as for a consumer that never reads, in test_hostile
    watch = Watch(world.consumer, growth)
    async with (
        unnoticed(world, others=endless, growth=growth) as somebody,
        AsyncExitStack() as apps,
    ):
        for _ in range(number):
            _, writer = await apps.enter_async_context(calling(world.at[APP]))
            assert isinstance(writer.transport, asyncio.Transport)
            writer.transport.pause_reading()
            writer.write(b"more")
        before = 0
        while world.consumer.rss() > before + MIB // 4:  # it fills up, and stays
            before = world.consumer.rss()
            await somebody.go_on(20)
    watch.check()


MOST = 10


async def test_more_applications_than_an_agent_takes(world: World) -> None:
    """The rest is refused at once, in a line a second; who was served before still is."""
    agent = await world.start_agent(
        "agent-a", f"--consume={APP}@{ANY_PORT}", "--max-streams", str(MOST)
    )
    address, mark = await agent.listening(), agent.mark()
    async with unnoticed(world, others=_echo_until_gone), AsyncExitStack() as calls:
        served = [await calls.enter_async_context(calling(address)) for _ in range(MOST)]
        for call in served:
            await greet(*call)
        async with TaskGroup() as group:
            for _ in range(200):
                group.create_task(_refused(address))
        await until_times(agent, 200, "open refused", mark, code=429)
        assert len(agent.seen("open refused", since=mark)) < 20
        for call in served:
            await ping(*call)
        await abort(served[0][1])
        async with asyncio.timeout(PATIENCE):
            while not await _is_served(address):
                pass
    await agent.stop()


async def greet(reader: StreamReader, writer: StreamWriter) -> None:
    """Begin a call that is not the bystander's, and see it answered."""
    writer.write(b"mine")
    await ping(reader, writer)


async def _echo_until_gone(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)


async def _refused(address: Address) -> None:
    with suppress(ConnectionResetError):  # which may be there before the connect is looked at
        async with calling(address) as (reader, _):
            with pytest.raises(ConnectionResetError):
                await reader.read()


async def _is_served(address: Address) -> bool:
    try:
        async with calling(address) as call:
            await greet(*call)
    except (ConnectionError, asyncio.IncompleteReadError):
        return False
    return True

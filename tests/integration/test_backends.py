"""A backend that fails costs the calls it fails, never its agent, nor another service."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import pytest_asyncio

from outrelay.lib.values import Address, address_text
from tests.integration.peers import abort, answer_to, calling, echo, ping, unused_port
from tests.integration.world import ANY_PORT, APP, World
from tests.support.processes import Program

pytestmark = pytest.mark.asyncio(loop_scope="session")

FRAIL, NAMELESS = "shop-frail", "shop-nameless"
NO_NAME = "a" * 64 + ".example"
"""A host that no resolver is asked about: names have shorter parts."""


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A provider with a backend that comes and goes, and its consumer."""

    provider: Program
    consumer: Program
    backend: Address

    async def at(self, service: str = FRAIL) -> Address:
        """Where applications reach a service."""
        return await self.consumer.listening(service=service)

    async def refused(self, service: str, reason: str) -> None:
        """Call; both agents must say why that fails, and the application gets an RST."""
        marks = self.consumer.mark(), self.provider.mark()
        with pytest.raises(ConnectionResetError):
            await answer_to(await self.at(service))
        line = await self.consumer.event("open refused", since=marks[0], service=service)
        assert line["code"] == 502
        assert reason in str(line["reason"])
        line = await self.provider.event("backend failed", since=marks[1], service=service)
        assert reason in str(line["reason"])
        assert self.provider.running


@pytest_asyncio.fixture(loop_scope="session")
async def shop(world: World) -> AsyncIterator[Shop]:
    """Its backend is closed."""
    backend = unused_port()
    provider = await world.start_agent(
        "agent-b",
        *("--expose", f"{FRAIL}={address_text(backend)},{NAMELESS}={NO_NAME}:80"),
    )
    consumer = await world.start_agent(
        "agent-a", *("--consume", f"{FRAIL}@{ANY_PORT},{NAMELESS}@{ANY_PORT}")
    )
    await asyncio.gather(provider.event("ready"), consumer.event("ready"))
    yield Shop(provider=provider, consumer=consumer, backend=backend)
    await asyncio.gather(provider.stop(), consumer.stop())


@asynccontextmanager
async def backend_of(shop: Shop) -> AsyncIterator[list[StreamWriter]]:
    """The backend runs for the length of the ``with``; then it dies with all it serves."""
    connections = []

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        connections.append(writer)
        while data := await reader.read(65536):
            writer.write(data)
        writer.write_eof()

    server = await asyncio.start_server(serve, *shop.backend)
    async with server:
        yield connections
        server.close()
        for writer in connections:
            await abort(writer)


async def test_a_backend_goes_and_comes_back(world: World, shop: Shop) -> None:
    """What it served is cut, what comes meanwhile refused, and then all is as it was."""
    async with world.backend.serving(echo), calling(world.at[APP]) as others:
        for _ in range(2):
            await shop.refused(FRAIL, "Connection refused")
            async with backend_of(shop):
                assert await answer_to(await shop.at(), b"at once") == b"at once"
                reader, writer = await asyncio.open_connection(*await shop.at())
                await ping(reader, writer)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
            await ping(*others)
    assert not shop.provider.seen("disconnected")


async def test_a_backend_that_has_no_address(shop: Shop) -> None:
    await shop.refused(NAMELESS, "the name has no address")


@pytest.mark.parametrize("politely", [True, False], ids=["by an end", "by a reset"])
async def test_a_backend_that_accepts_and_closes(shop: Shop, politely: bool) -> None:
    """That is a call like any other: an empty answer stays one, a broken one stays broken."""

    async def serve(_reader: StreamReader, writer: StreamWriter) -> None:
        if politely:
            writer.close()
        else:
            await abort(writer)

    async with await asyncio.start_server(serve, *shop.backend):
        for _ in range(20):
            async with calling(await shop.at()) as (reader, _):
                if politely:
                    assert await reader.read() == b""
                else:
                    with pytest.raises(ConnectionResetError):
                        await reader.read()
    assert shop.provider.running

"""Agents of another implementation at our relay, with our agents at the far end.

They speak in bytes of their own (``tests.support.plain``). While such an agent waits for an
answer it takes the next control frame for it, so that every step here also shows that the
relay says nothing unasked.
"""

from __future__ import annotations

import asyncio
import hashlib
from asyncio import TaskGroup
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from outrelay.lib.errors import Closed, ErrorCode, Reset
from outrelay.lib.identity.certs import Credentials
from tests.integration.peers import MIB, Payload, calling, digest_of, echo
from tests.integration.world import ANY_PORT, APP, DEAD, SECRET, TENANT, World
from tests.support import plain
from tests.support.patience import PATIENCE
from tests.support.peers import read_all
from tests.support.pki import agent_identity
from tests.support.plain import PlainAgent, accept, frame, refusal, reject
from tests.support.processes import Program

pytestmark = pytest.mark.asyncio(loop_scope="session")

DATA = bytes(range(256)) * (4 * MIB // 256)
UP, DOWN = Payload(21, 4 * MIB), Payload(22, 4 * MIB)


@asynccontextmanager
async def plain_agent(
    world: World, credentials: Credentials | None = None, *, odd: bool = False
) -> AsyncIterator[PlainAgent]:
    """A plain agent of the world's tenant, connected as the world's agents for the ``with``.

    Args:
        world: Where.
        credentials: Whose; by default nobody's yet.
        odd: It sets bits that mean nothing.
    """
    credentials = credentials or world.issue(agent_identity(TENANT))
    carrier = world.carriers.consumer
    relay = await world.relay.listening(carrier=carrier)
    async with PlainAgent.at(relay, credentials, world.trust, odd=odd, carrier=carrier) as agent:
        yield agent


@asynccontextmanager
async def consumer(world: World, service: str) -> AsyncIterator[Program]:
    """One of our agents that consumes a service of somebody plain."""
    agent = await world.start_agent("agent-a", f"--consume={service}@{ANY_PORT}")
    await agent.event("ready")
    yield agent
    await agent.stop()


# ---- a plain consumer, a provider of ours --------------------------------------------------


@pytest.mark.parametrize("stream_id", [0x1234_5678_9ABC_DEF0, 0], ids=["an id", "no id"])
async def test_a_plain_consumer(world: World, stream_id: int) -> None:
    """Its question is right behind OPEN_STREAM, its end long before that of the answer."""
    async with world.backend.serving(echo), plain_agent(world, odd=True) as agent:
        stream = await agent.open(APP, stream_id, early=b"question, ")
        assert (await agent.ready()).number(1) == stream_id
        digest = hashlib.sha256(b"question, " + DATA).hexdigest()
        async with TaskGroup() as group:
            answer = group.create_task(read_all(stream))
            await stream.write(DATA)
            stream.finish()
        assert hashlib.sha256(answer.result()).hexdigest() == digest
        await agent.pings()


@pytest.mark.parametrize(
    ("service", "code"), [(SECRET, 403), ("shop-nobody", 404), (DEAD, 502), ("a/b", 400)]
)
async def test_a_plain_consumer_is_refused(world: World, service: str, code: int) -> None:
    async with plain_agent(world) as agent:
        stream = await agent.open(service, 7, early=b"question")
        told, reason = await refusal(stream)
        assert told == code
        assert reason
        await agent.pings()


async def test_a_plain_consumer_breaks_off(world: World) -> None:
    async def backend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(1))
        with pytest.raises(ConnectionResetError):
            await reader.read()

    async with world.backend.serving(backend), plain_agent(world) as agent:
        stream = await agent.open(APP, 8, early=b"?")
        await agent.ready()
        assert await stream.read() == b"?"
        stream.reset(ErrorCode.CANCELLED)
        stream.stop(ErrorCode.CANCELLED)


# ---- a plain provider, a consumer of ours --------------------------------------------------


async def test_a_plain_provider(world: World) -> None:
    """It speaks first, right behind STREAM_ACCEPT; both directions end by themselves."""
    async with plain_agent(world, odd=True) as agent:
        await agent.register("shop-plain", odd=True)
        async with (
            consumer(world, "shop-plain") as ours,
            calling(await ours.listening()) as (reader, writer),
        ):
            stream, call = await agent.incoming()
            assert (call.text(1), call.text(2)) == ("shop-plain", "")
            assert call.text(3).startswith(f"outrelay://{TENANT}/agent/")
            assert call.number(4)
            await accept(stream, early=b"220 hello")
            assert (await agent.ready()).number(1) == call.number(4)
            assert await reader.readexactly(9) == b"220 hello"
            async with TaskGroup() as group:
                group.create_task(UP.send(writer))
                got = group.create_task(read_all(stream))
                answer = group.create_task(digest_of(reader))
                await stream.write(DATA)
                stream.finish()
            assert hashlib.sha256(got.result()).hexdigest() == UP.digest
            assert answer.result() == hashlib.sha256(DATA).hexdigest()
        await agent.pings()


async def test_a_plain_provider_refuses(world: World) -> None:
    async with plain_agent(world) as agent:
        await agent.register("shop-refuses")
        async with consumer(world, "shop-refuses") as ours:
            async with calling(await ours.listening()) as (reader, _):
                stream, _call = await agent.incoming()
                await reject(stream, 503, "closed on Sundays")
                with pytest.raises(ConnectionResetError):
                    await reader.read()
            line = await ours.event("open refused", code=503)
            assert line["reason"] == "closed on Sundays"


async def test_a_plain_provider_ends_first(world: World) -> None:
    async with plain_agent(world) as agent:
        await agent.register("shop-short")
        async with (
            consumer(world, "shop-short") as ours,
            calling(await ours.listening()) as (reader, writer),
        ):
            stream, _ = await agent.incoming()
            await accept(stream, early=b"that is all")
            stream.finish()
            assert await reader.read() == b"that is all"
            writer.write(b"but not from me")
            writer.write_eof()
            assert await read_all(stream) == b"but not from me"


async def test_a_plain_consumer_and_a_plain_provider(world: World) -> None:
    async with plain_agent(world) as provider, plain_agent(world) as caller:
        await provider.register("shop-both")
        stream = await caller.open("shop-both", 9, early=b"question")
        served, call = await provider.incoming()
        assert call.number(4) == 9
        await accept(served, early=b"answer")
        for agent in (caller, provider):
            assert (await agent.ready()).number(1) == 9
        for each in (stream, served):
            each.finish()
        assert (await read_all(served), await read_all(stream)) == (b"question", b"answer")


# ---- its connection ------------------------------------------------------------------------


async def test_a_registration_is_refused_in_silence(world: World) -> None:
    async with plain_agent(world) as agent:
        await agent.control.write(frame(plain.REGISTER, {1: "no/name"}))
        await agent.pings()
        await agent.register("shop-later")


async def test_frames_nobody_knows(world: World) -> None:
    """On the control stream they are skipped, as a stream's first frame they end it."""
    async with plain_agent(world) as agent:
        for kind in (0x7FF, 0x040, 0x006, 0x103, plain.PONG):
            await agent.control.write(frame(kind, {1: 7, 2: "x"}))
        await agent.pings()
        stream = await agent.connection.open_stream()
        await stream.write(frame(0x7FF))
        with pytest.raises(Reset):
            await stream.read()
        await agent.pings()


async def test_a_plain_agent_connects_twice(world: World) -> None:
    """Both connections live; the newest one is called, and the other when that has gone."""
    credentials, service = world.issue(agent_identity(TENANT)), "shop-twice"
    async with plain_agent(world, credentials) as first, plain_agent(world) as caller:
        await first.register(service)
        async with plain_agent(world, credentials) as second:
            await second.register(service)
            await _served(caller, second, service, stream_id=1)
            await first.pings()
        await asyncio.wait_for(_gone(world, credentials), 5)
        await _served(caller, first, service, stream_id=2)
    async with plain_agent(world) as caller:  # it left, and deregistered nothing
        await _until_refused(caller, service)


async def _served(caller: PlainAgent, provider: PlainAgent, service: str, stream_id: int) -> None:
    stream = await caller.open(service, stream_id, early=b"?")
    served, _ = await provider.incoming()
    await accept(served)
    await caller.ready()
    await provider.ready()
    assert await served.read() == b"?"
    for each in (stream, served):
        each.finish()


async def _gone(world: World, credentials: Credentials) -> None:
    await world.relay.event("agent gone", agent=credentials.identity.uri)


async def _until_refused(caller: PlainAgent, service: str) -> None:
    async with asyncio.timeout(PATIENCE):
        stream_id = 100
        while (await refusal(await caller.open(service, stream_id)))[0] != 404:
            stream_id += 1


async def test_a_relay_that_stops_tells_a_plain_agent_by_closing(own_world: World) -> None:
    """No GOAWAY: it would take that for an answer."""
    async with own_world.backend.serving(echo), plain_agent(own_world) as agent:
        stream = await agent.open(APP, 5, early=b"last words")
        await agent.ready()
        stream.finish()
        assert await read_all(stream) == b"last words"
        rest, _ = await asyncio.gather(_rest_of(agent), own_world.relay.stop())
        assert rest == b""
        assert (await agent.connection.wait_closed()).by_peer


async def _rest_of(agent: PlainAgent) -> bytes:
    """Whatever else comes on the control stream, to the connection's end."""
    data = b""
    try:
        while part := await agent.control.read():
            data += part
    except Closed:
        pass
    return agent.frames.rest() + data

"""Several providers of one service: while one of them is good, its consumers see no failure."""

from __future__ import annotations

import asyncio
import signal
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count

import pytest

from outrelay.lib.identity.uri import Identity
from outrelay.lib.values import Address, address_text
from tests.integration.attackers import Mallories
from tests.integration.peers import Backend, calling, echo_until_cut, ping, unused_port
from tests.integration.world import ANY_PORT, World
from tests.support.patience import PATIENCE
from tests.support.peers import FEATURES
from tests.support.processes import Program

pytestmark = pytest.mark.asyncio(loop_scope="session")


@dataclass(kw_only=True)
class Provider:
    """One that offers the service; its backend says the provider's number first of all."""

    identity: Identity
    target: Address
    program: Program


@dataclass(kw_only=True)
class Service:
    """A service, its providers, and a consumer's listener."""

    world: World
    name: str
    providers: list[Provider]
    consumer: Program
    at: Address

    async def calls(self, stack: AsyncExitStack, number: int) -> list[Call]:
        """So many calls that go on until the stack's end, made one after the other."""
        return [await self.call(stack) for _ in range(number)]

    async def call(self, stack: AsyncExitStack) -> Call:
        """One of them."""
        async with asyncio.timeout(PATIENCE):
            reader, writer = await stack.enter_async_context(calling(self.at))
            return Call(int(await reader.readexactly(1)), reader, writer)

    async def takers(self, number: int, *, at_once: bool = False) -> Counter[int]:
        """Who took so many calls that all were answered, and ended."""

        async def taker() -> int:
            async with AsyncExitStack() as stack:
                return (await self.call(stack)).taker

        if at_once:
            return Counter(await asyncio.gather(*(taker() for _ in range(number))))
        return Counter([await taker() for _ in range(number)])


@dataclass(frozen=True, slots=True)
class Call:
    """A call that somebody took."""

    taker: int
    reader: StreamReader
    writer: StreamWriter


_numbers = count(1)


@asynccontextmanager
async def service(world: World, *, dead: int = 0) -> AsyncIterator[Service]:
    """A new service with three providers, of whom the first ones have backends that are dead."""
    name = f"shop-{next(_numbers)}"
    async with AsyncExitStack() as stack:
        targets = [await _target(stack, number, is_dead=number < dead) for number in range(3)]
        (consumer, _), *providers = await asyncio.gather(
            world.start_stranger(f"--consume={name}@{ANY_PORT}"),
            *(world.start_stranger(_expose(name, target)) for target in targets),
        )
        yield Service(
            world=world,
            name=name,
            providers=[
                Provider(identity=identity, target=target, program=program)
                for target, (program, identity) in zip(targets, providers, strict=True)
            ],
            consumer=consumer,
            at=await consumer.listening(),
        )
        for program, _ in (*providers, (consumer, None)):
            await program.stop(signal.SIGKILL)


async def _target(stack: AsyncExitStack, number: int, *, is_dead: bool) -> Address:
    """Where a backend is, until the stack's end, or none."""
    if is_dead:
        return unused_port()
    backend = await stack.enter_async_context(Backend.start())
    await stack.enter_async_context(backend.serving(_saying(number)))
    return backend.address


def _expose(service: str, target: Address) -> str:
    return f"--expose={service}={address_text(target)}"


def _saying(number: int) -> Callable[[StreamReader, StreamWriter], Awaitable[None]]:
    async def backend(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(b"%d" % number)
        await echo_until_cut(reader, writer)

    return backend


# ---- all are well --------------------------------------------------------------------------


async def test_a_stream_goes_to_who_carries_least(world: World) -> None:
    async with service(world) as shop, AsyncExitStack() as stack:
        calls = await shop.calls(stack, 9)
        assert Counter(call.taker for call in calls) == {0: 3, 1: 3, 2: 3}
        mark = world.relay.mark()
        for call in calls:
            if call.taker == 1:
                call.writer.close()
        async with asyncio.timeout(PATIENCE):
            while len(world.relay.seen("stream ended", since=mark)) < 3:
                await world.relay.event("stream ended", since=world.relay.mark())
        more = await shop.calls(stack, 3)
        assert Counter(call.taker for call in more) == {1: 3}


# ---- one is not ----------------------------------------------------------------------------


async def kill(provider: Provider) -> None:
    """It is gone without a word."""
    await provider.program.stop(signal.SIGKILL)


async def stop(provider: Provider) -> None:
    """It is there, and says nothing."""
    provider.program.send_signal(signal.SIGSTOP)


@pytest.mark.parametrize("silence", [kill, stop])
async def test_who_says_nothing_is_passed_over(
    world: World, silence: Callable[[Provider], Awaitable[None]]
) -> None:
    async with service(world) as shop:
        mute = shop.providers[0]
        await silence(mute)
        mark = world.relay.mark()
        takers = await shop.takers(12, at_once=True) + await shop.takers(6)
        assert set(takers) == {1, 2}
        rested = [line["provider"] for line in world.relay.seen("provider rests", since=mark)]
        over_tcp = world.carriers.consumer == "tcp"
        if silence is stop or not over_tcp or rested:  # over TCP the system tells who is gone
            assert rested == [mute.identity.uri]


async def test_whose_backend_is_dead_is_passed_over_and_says_so(world: World) -> None:
    async with service(world, dead=1) as shop:
        takers = await shop.takers(12, at_once=True) + await shop.takers(6)
        assert set(takers) == {1, 2}
        dead = shop.providers[0].program
        assert dead.running
        assert dead.seen("backend failed", service=shop.name)


# ---- one goes ------------------------------------------------------------------------------


async def test_who_stops_gets_nothing_new_and_ends_what_it_has(world: World) -> None:
    async with service(world) as shop, AsyncExitStack() as stack:
        calls = {call.taker: call for call in await shop.calls(stack, 3)}
        leaver, mark = shop.providers[0].program, world.relay.mark()
        leaver.send_signal(signal.SIGTERM)
        await world.relay.event("service deregistered", agent=shop.providers[0].identity.uri)
        assert set(await shop.takers(6)) == {1, 2}
        await ping(calls[0].reader, calls[0].writer)
        calls[0].writer.close()
        assert await leaver.ended() == 0
        assert not world.relay.seen("provider rests", since=mark)  # it was not even asked
        assert set(await shop.takers(6)) == {1, 2}
        for taker in (1, 2):
            await ping(calls[taker].reader, calls[taker].writer)


async def test_who_loses_its_connection_is_not_asked_again(world: World) -> None:
    async with service(world) as shop, Mallories(world).mallory(*FEATURES) as fourth:
        await fourth.register(shop.name)
        mark = world.relay.mark()
        fourth.connection.close()
        await world.relay.event("agent gone", agent=fourth.identity.uri)
        assert set(await shop.takers(8)) == {0, 1, 2}
        assert not world.relay.seen("provider rests", since=mark)


async def test_who_starts_anew_is_asked_at_once(world: World) -> None:
    """Its relay does not know yet that the process it was is no more."""
    async with service(world) as shop:
        old = shop.providers[0]
        await kill(old)
        new = await world.start_agent(old.identity.name, _expose(shop.name, old.target))
        await new.event("ready")
        takers = await shop.takers(12, at_once=True) + await shop.takers(6)
        assert set(takers) == {0, 1, 2}
        await new.event("stream opened")
        await new.stop()


# ---- none is -------------------------------------------------------------------------------


async def test_when_all_fail_the_consumer_is_told_why(world: World) -> None:
    async with service(world, dead=3) as shop:
        with pytest.raises(ConnectionResetError):
            await shop.takers(1)
        told = await shop.consumer.event("open refused", code=502)
        assert "Connection refused (none of the 3 providers tried took it)" in str(told["reason"])

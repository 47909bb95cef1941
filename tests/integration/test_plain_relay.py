"""Our agents at a relay of another implementation, which has none of our features.

What takes long by protocol.md is tried all at once, at the end, plain agents' part included.

The relay speaks in bytes of its own (``tests.support.plain``); the agents are processes.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter, TaskGroup
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from outrelay.lib.identity.certs import load_credentials, load_trust
from outrelay.lib.transport.quic import aioquic_core, aioquic_streams
from outrelay.lib.values import Address, address_text
from tests.integration.peers import (
    MIB,
    Backend,
    Payload,
    answer_to,
    calling,
    digest_of,
    echo,
    echo_until_cut,
    ping,
    unused_port,
)
from tests.integration.world import ANY_PORT, TENANT, Carriers, World, write_pki
from tests.support import plain
from tests.support.pki import agent_identity
from tests.support.plain import PlainAgent, PlainRelay
from tests.support.processes import Program, Programs

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVICE, DEAD, GHOST = "files", "dead", "ghost"
ANYWHERE = ("127.0.0.1", 0)

UP, DOWN = Payload(11, 4 * MIB), Payload(12, 4 * MIB)


class Place:
    """A plain relay, a backend, and what agents of ours need to start beside them."""

    def __init__(self, directory: Path, programs: Programs, backend: Backend, carrier: str) -> None:
        self.pki = directory
        self.carrier = carrier
        self.backend = backend
        self.relay: PlainRelay
        self._programs = programs

    @asynccontextmanager
    async def relay_at(self, address: Address = ANYWHERE) -> AsyncIterator[PlainRelay]:
        """A plain relay, for the length of the ``with``."""
        credentials = load_credentials(self.pki / "relay.pem", self.pki / "relay.key")
        trust = load_trust(self.pki / "ca.pem")
        async with PlainRelay.at(address, credentials, trust, carrier=self.carrier) as relay:
            yield relay

    async def agent(self, holder: str, relay: PlainRelay, *flags: str) -> Program:
        """An agent that has been started."""
        return await self._programs.start(
            "outrelay-agent",
            *("--relay-tcp" if self.carrier == "tcp" else "--relay", address_text(relay.address)),
            *("--cert", self.pki / f"{holder}.pem", "--key", self.pki / f"{holder}.key"),
            *("--ca", self.pki / "ca.pem"),
            *flags,
        )

    async def provider(self, relay: PlainRelay) -> Program:
        """An agent that offers SERVICE, and DEAD without a backend; both are acknowledged."""
        agent = await self.agent(
            "agent-b",
            relay,
            f"--expose={SERVICE}={address_text(self.backend.address)}",
            f"--expose={DEAD}={address_text(unused_port())}",
        )
        await agent.event("ready")
        return agent

    async def consumer(self, relay: PlainRelay) -> Program:
        """An agent that consumes SERVICE, DEAD, and GHOST, which nobody offers."""
        services = (SERVICE, DEAD, GHOST)
        agent = await self.agent(
            "agent-a", relay, *(f"--consume={name}@{ANY_PORT}" for name in services)
        )
        await agent.event("ready")
        return agent


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(
    tmp_path_factory: pytest.TempPathFactory, carriers: Carriers
) -> AsyncIterator[Place]:
    """A place without a relay yet."""
    directory = tmp_path_factory.mktemp("plain") / "pki"
    write_pki(directory)
    async with Backend.start() as backend, Programs() as programs:
        yield Place(directory, programs, backend, carriers.consumer)


class Pair:
    """A consumer and a provider at one plain relay."""

    def __init__(self, relay: PlainRelay, consumer: Program, provider: Program) -> None:
        self.relay = relay
        self.consumer = consumer
        self.provider = provider

    async def at(self, service: str = SERVICE) -> Address:
        """Where applications reach a service."""
        return await self.consumer.listening(service=service)


@pytest_asyncio.fixture(loop_scope="session")
async def pair(place: Place) -> AsyncIterator[Pair]:
    """Both agents, connected."""
    async with place.relay_at() as relay:
        provider, consumer = await asyncio.gather(place.provider(relay), place.consumer(relay))
        yield Pair(relay, consumer, provider)
        await asyncio.gather(consumer.stop(), provider.stop())


async def exchange(place: Place, address: Address) -> None:
    """4 MiB each way at once, hashed, each direction ended by itself."""
    arrived = []

    async def backend(reader: StreamReader, writer: StreamWriter) -> None:
        digest, _ = await asyncio.gather(digest_of(reader), DOWN.send(writer))
        arrived.append(digest)

    async with place.backend.serving(backend), calling(address) as (reader, writer):
        digest, _ = await asyncio.gather(digest_of(reader), UP.send(writer))
        assert digest == DOWN.digest
    assert arrived == [UP.digest]


async def half_closed(place: Place, address: Address) -> None:
    """An answer that begins only after the question has ended."""

    async def backend(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(b"%d bytes" % len(await reader.read()))

    async with place.backend.serving(backend):
        assert await answer_to(address, b"question") == b"8 bytes"


@pytest.mark.parametrize("keeps_ids", [True, False], ids=["stream ids", "id 0 for providers"])
async def test_calls_through_a_plain_relay(place: Place, pair: Pair, keeps_ids: bool) -> None:
    pair.relay.keeps_ids = keeps_ids
    await exchange(place, await pair.at())
    await half_closed(place, await pair.at())
    line = await pair.provider.event("stream opened")
    assert (line["stream_id"] == 16 * "0") is not keeps_ids


async def test_a_plain_relay_hears_nothing_it_could_not_know(place: Place, pair: Pair) -> None:
    await exchange(place, await pair.at())
    await asyncio.gather(pair.consumer.stop(), pair.provider.stop())
    both = [plain.HELLO, *[plain.REGISTER] * 2]
    assert sorted(pair.relay.heard) == [[plain.HELLO], both]
    for link in pair.relay.links:
        for said in link.heard[1:]:
            assert set(said.fields) <= {1, 2}
        assert (await link.connection.wait_closed()).by_peer


@pytest.mark.parametrize(
    ("service", "code", "reason"),
    [(GHOST, 404, "no provider for ghost"), (DEAD, 502, "backend cannot be reached")],
)
async def test_a_plain_relays_refusal(
    pair: Pair, place: Place, service: str, code: int, reason: str
) -> None:
    with pytest.raises(ConnectionResetError):
        await answer_to(await pair.at(service))
    line = await pair.consumer.event("open refused", service=service, code=code)
    assert reason in str(line["reason"])


async def test_what_a_plain_relay_brings_before_ready(place: Place, pair: Pair) -> None:
    """It looks like a refusal, and there is more of it than is held."""
    pair.relay.early = plain.frame(plain.STREAM_REJECT, {1: 403, 2: "no"}) + bytes(200_000)
    pair.relay.ready.clear()
    async with place.backend.serving(echo), calling(await pair.at()) as (reader, writer):
        writer.write(b"question")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await reader.read(1)
        pair.relay.ready.set()
        assert await reader.readexactly(len(pair.relay.early)) == pair.relay.early
        assert await reader.readexactly(8) == b"question"
        writer.write_eof()
        assert await reader.read() == b""


async def test_frames_of_a_plain_relay_that_nobody_knows(place: Place, pair: Pair) -> None:
    link = next(each for each in pair.relay.links if len(each.heard) == 1)
    for kind in (0x7FF, 0x006, 0x040, 0x100, 0x002):
        await link.control.write(plain.frame(kind, {1: 7, 2: "x"}, odd=True))
    await link.control.write(plain.frame(plain.PING))
    await pair.relay.until_heard(plain.PONG)
    await pair.consumer.event("unknown frames are skipped")
    assert len(pair.consumer.seen("unknown frames are skipped")) == 1
    await half_closed(place, await pair.at())


async def test_a_plain_relay_restarts(place: Place) -> None:
    async with place.relay_at() as relay:
        provider, consumer = await asyncio.gather(place.provider(relay), place.consumer(relay))
        address = await consumer.listening(service=SERVICE)
        async with place.backend.serving(_until_reset), calling(address) as (reader, writer):
            writer.write(b"?")
            assert await reader.readexactly(1) == b"?"
            for link in relay.links:
                link.connection.close()
            with pytest.raises(ConnectionResetError):
                await reader.read()
    async with place.relay_at(relay.address) as relay:
        await relay.until_heard(plain.HELLO, times=2)
        await relay.until_heard(plain.REGISTER, times=2)
        await exchange(place, address)
        await asyncio.gather(consumer.stop(), provider.stop())


async def _until_reset(reader: StreamReader, writer: StreamWriter) -> None:
    writer.write(await reader.readexactly(1))
    with pytest.raises(ConnectionResetError):
        await reader.read()


# ---- what takes its time -------------------------------------------------------------------

CREDIT = 4
"""Streams a plain peer lets others open: none is ever given back."""


async def test_what_plain_peers_never_say(
    place: Place, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them takes as long as protocol.md says; all of them together no longer."""
    monkeypatch.setattr(aioquic_core, "STREAMS", CREDIT)
    monkeypatch.setattr(aioquic_streams.GrantedLimit, "grant", lambda _: None)
    async with (
        asyncio.timeout(40),
        place.backend.serving(echo_until_cut),
        TaskGroup() as group,
    ):
        group.create_task(_no_ready(place))
        group.create_task(_no_acknowledgement(place))
        if place.carrier == "quic":  # yamux knows no credit of streams
            group.create_task(_no_credit(place))
            group.create_task(_no_credit_of_an_agent(world))


async def _no_ready(place: Place) -> None:
    """A provider goes on 5 s after its ACCEPT, a consumer after 10 s."""
    async with place.relay_at() as relay:
        relay.announces = False
        provider, consumer = await asyncio.gather(place.provider(relay), place.consumer(relay))
        address = await consumer.listening(service=SERVICE)
        assert await answer_to(address, b"without READY") == b"without READY"
        first, last = [
            int(str((await agent.event("stream opened"))["ts_unix_ms"]))
            for agent in (provider, consumer)
        ]
        assert first < last
        await asyncio.gather(consumer.stop(), provider.stop())


async def _no_acknowledgement(place: Place) -> None:
    """A registration that was refused in silence is tried again, and found when it counts."""
    async with place.relay_at() as relay:
        relay.deaf_to = {SERVICE}
        agent = await place.agent(
            "agent-b", relay, f"--expose={SERVICE}={address_text(place.backend.address)}"
        )
        await agent.event("registration not answered, trying again", service=SERVICE)
        relay.deaf_to = set()
        await agent.event("registered", service=SERVICE)
        assert relay.heard == [[plain.HELLO, plain.REGISTER, plain.REGISTER]]
        await agent.stop()


async def _no_credit(place: Place) -> None:
    """Refused streams cost credit that never comes back: new ones go to a fresh connection.

    When the old one ends the relay drops what the agent offers: it has to be offered again.
    """
    async with place.relay_at() as relay:
        expose = f"--expose={SERVICE}={address_text(place.backend.address)}"
        consume = (f"--consume={name}@{ANY_PORT}" for name in (SERVICE, GHOST))
        agent = await place.agent("agent-a", relay, expose, *consume)
        await agent.event("ready")
        address, ghost = [await agent.listening(service=name) for name in (SERVICE, GHOST)]
        async with calling(address) as call:
            await ping(*call)
            for _ in range(CREDIT - 1):
                with pytest.raises(ConnectionResetError):
                    await answer_to(ghost)
            await agent.event("no credit for streams, moving to a fresh connection")
            await relay.until_heard(plain.REGISTER, 2)
            await ping(*call)
        assert (await relay.links[0].connection.wait_closed()).by_peer
        await relay.until_heard(plain.REGISTER, 3)
        async with calling(address) as call:
            await ping(*call)
        assert relay.heard == [
            [plain.HELLO, plain.REGISTER],
            [plain.HELLO, plain.REGISTER, plain.REGISTER],
        ]
        assert {line["code"] for line in agent.seen("open refused", service=GHOST)} == {404}
        await agent.stop()


async def _no_credit_of_an_agent(world: World) -> None:
    """A plain provider whose refusals use up its credit counts as one that does not answer."""
    relay, credentials = (
        await world.relay.listening(carrier="quic"),
        world.issue(agent_identity(TENANT)),
    )
    async with PlainAgent.at(relay, credentials, world.trust) as agent:
        await agent.register("shop-spent")
        for stream_id in range(1, 1 + CREDIT):
            stream = await agent.open("shop-spent", stream_id)
            asked, _ = await agent.incoming()
            await plain.reject(asked, 503, "no")
            assert await plain.refusal(stream) == (503, "no")
        code, _ = await plain.refusal(await agent.open("shop-spent", 1 + CREDIT))
        assert code == 504
        await agent.pings()

"""An agent that has tcp as well: how it falls back to it, and leaves it again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from outrelay.agent.session import climb
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from tests.agent.place import OPTIONS, RELAY, SERVICE, Agent, Place
from tests.agent.tcp import Tcp
from tests.support.ports import unused_port
from tests.support.relay_peer import FEATURES, Link, Opened, RelayPeer, read_exactly
from tests.support.turns import everybody_waits

TCP = ("127.0.0.1", 443)
BOTH = replace(OPTIONS, relays_tcp=(TCP,))
LOOKING = "agent: look for quic"
"""The task that looks for a better way."""


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quic is tried again at once."""
    monkeypatch.setattr(climb, "FIRST", 0.01)
    monkeypatch.setattr(climb, "MOST", 0.02)


class Blocked:
    """A place whose relay is reached over tcp, until the test says otherwise."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.tcp = RelayPeer(place.network.listen(TCP, RELAY))

    async def block(self) -> None:
        await self.place.relay.listener.close()

    def unblock(self) -> RelayPeer:
        return self.place.relay_at("127.0.0.1")


@pytest.fixture
async def blocked(place: Place) -> Blocked:
    blocked = Blocked(place)
    await blocked.block()
    return blocked


async def greeted(relay: RelayPeer, *, tcp_endpoints: Sequence[str] = ()) -> tuple[Link, orp.Hello]:
    """The next agent and its HELLO, which is answered."""
    link = await relay.connected()
    hello = await link.hello()
    ack = orp.HelloAck(accepted_features=FEATURES, tcp_endpoints=tcp_endpoints)
    await link.send(FrameType.HELLO_ACK, ack)
    return link, hello


async def test_tcp_is_used_when_quic_does_not_get_through(blocked: Blocked) -> None:
    async with blocked.place.agent(options=BOTH):
        await blocked.tcp.accept()
        line = await blocked.place.seen.wait("connected")
        assert line["address"] == "127.0.0.1:443"


async def test_tcp_alone_will_do(blocked: Blocked) -> None:
    async with blocked.place.agent(options=replace(BOTH, relays=())):
        await blocked.tcp.accept()
        await blocked.place.seen.wait("ready")


@asynccontextmanager
async def running_stream(agent: Agent, link: Link) -> AsyncIterator[tuple[Tcp, Opened]]:
    """A stream of an application, spliced."""
    with await agent.app() as app:
        opened = await link.spliced()
        await talk(app, opened)
        yield app, opened
    opened.stream.finish()


async def talk(app: Tcp, opened: Opened) -> None:
    await app.send(b"ping")
    assert await read_exactly(opened.stream, 4) == b"ping"
    await opened.stream.write(b"pong")
    assert await app.read(4) == b"pong"


@pytest.mark.usefixtures("soon")
async def test_new_streams_go_over_quic_and_old_ones_stay(blocked: Blocked) -> None:
    place = blocked.place
    async with place.agent(consume=[SERVICE], options=BOTH) as agent:
        old, first = await greeted(blocked.tcp)
        async with running_stream(agent, old) as over_tcp:
            new, second = await greeted(blocked.unblock())
            await place.seen.wait("quic gets through, new streams take it")
            await place.seen.wait("connected", count=2)
            async with running_stream(agent, new) as over_quic:
                await talk(*over_tcp)
                await talk(*over_quic)
        assert (await old.connection.wait_closed()).by_peer
        # The relay must not take the one for the other's successor, and close it.
        assert first.instance != second.instance
        assert len(second.instance) == 16


@pytest.mark.usefixtures("soon")
async def test_after_the_move_reconnects_replace_the_newer_connection(blocked: Blocked) -> None:
    place = blocked.place
    async with place.agent(options=BOTH):
        old, _ = await greeted(blocked.tcp)
        quic = blocked.unblock()
        new, moved = await greeted(quic)
        await old.connection.wait_closed()
        new.connection.close()
        _, again = await greeted(quic)
        assert again.instance == moved.instance


@pytest.mark.usefixtures("soon")
async def test_services_are_offered_over_both_and_withdrawn_from_both(blocked: Blocked) -> None:
    place = blocked.place
    consume, expose = [SERVICE], {"web": unused_port()}
    async with place.agent(consume=consume, expose=expose, options=BOTH) as agent:
        old, _ = await greeted(blocked.tcp)
        assert await old.registered() == "web"
        async with running_stream(agent, old):
            new, _ = await greeted(blocked.unblock())
            assert await new.registered() == "web"
            await place.seen.wait("registered", count=2)
            agent.stop.set()
            assert await old.deregistered() == "web"
            assert await new.deregistered() == "web"
        await agent.ended()


@pytest.mark.usefixtures("soon")
async def test_a_session_that_ends_while_quic_is_tried_is_replaced(blocked: Blocked) -> None:
    place = blocked.place
    async with place.agent(options=BOTH):
        first, _ = await greeted(blocked.tcp)
        await place.seen.wait("no better way to a relay", count=2)
        assert LOOKING in {task.get_name() for task in asyncio.all_tasks()}
        first.connection.close()
        await greeted(blocked.tcp)
        await place.seen.wait("connected", count=2)


async def test_without_quic_endpoints_nothing_better_is_looked_for(blocked: Blocked) -> None:
    place = blocked.place
    async with place.agent(options=replace(BOTH, relays=())):
        await greeted(blocked.tcp)
        await place.seen.wait("connected")
        await everybody_waits()
        assert LOOKING not in {task.get_name() for task in asyncio.all_tasks()}


async def test_an_agent_learns_of_tcp_from_its_relay(place: Place) -> None:
    tcp = RelayPeer(place.network.listen(TCP, RELAY))
    told = ["127.0.0.1:443", "nonsense", "0.0.0.0:443", "[::]:443", "127.0.0.1:0"]
    async with place.agent(options=OPTIONS):
        link, _ = await greeted(place.relay, tcp_endpoints=told)
        await place.seen.wait("connected")
        await place.relay.listener.close()
        link.connection.close()
        await greeted(tcp)
        line = await place.seen.wait("connected", count=2)
        assert line["address"] == "127.0.0.1:443"


async def test_what_worked_is_kept_in_the_state_directory(blocked: Blocked, tmp_path: Path) -> None:
    async with blocked.place.agent(options=replace(BOTH, state_dir=tmp_path)):
        await greeted(blocked.tcp)
        await blocked.place.seen.wait("connected")
    assert "127.0.0.1:443" in (tmp_path / "ways.json").read_text()

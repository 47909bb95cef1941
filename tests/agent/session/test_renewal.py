"""An agent whose certificate was renewed: it connects beside its connection, and moves."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from outrelay.agent.session import climb
from outrelay.lib.errors import ErrorCode
from outrelay.lib.transport.memory import EXPIRES
from tests.agent.place import OPTIONS, RELAY, SERVICE, Place
from tests.agent.resume.pairing import CONSUMER, PROVIDER, meeting
from tests.agent.session.test_carriers import TCP, greeted, running_stream, talk
from tests.agent.session.test_uplink import BOTH, SECOND_RELAY, Recorder
from tests.support.events import Events
from tests.support.ports import unused_port
from tests.support.relay_peer import RelayPeer
from tests.support.turns import everybody_waits

MOVED = "connected with the new certificate, streams move to it"
NEXT = EXPIRES + 3600


async def test_new_streams_take_a_second_connection_and_old_ones_stay(place: Place) -> None:
    """To a relay that resumes nothing: what runs goes on where it is."""
    async with place.agent(consume=[SERVICE], expose={"web": unused_port()}) as agent:
        old, first = await greeted(place.relay)
        assert await old.registered() == "web"
        async with running_stream(agent, old) as before:
            agent.proof.renew(NEXT)
            new, second = await greeted(place.relay)
            assert await new.registered() == "web"
            async with running_stream(agent, new) as after:
                await talk(*before)
                await talk(*after)
        assert (await old.connection.wait_closed()).by_peer
        # The relay must not take the one for the other's successor, and close it.
        assert first.instance != second.instance
    assert not place.seen.of("disconnected")


@pytest.mark.parametrize("agents", [[CONSUMER], [PROVIDER], [CONSUMER, PROVIDER]])
async def test_streams_move_with_their_agent(seen: Events, agents: list[object]) -> None:
    async with meeting(seen) as meet:
        app, backend = await meet.stream()
        with app, backend:
            await app.send(b"before")
            assert await backend.read(6) == b"before"
            for identity, proof in meet.proofs.items():
                if identity in agents:
                    proof.renew(NEXT)
            await seen.wait("stream resumed", count=2)
            await app.send(b"after")
            assert await backend.read(5) == b"after"
            await backend.send(b"answer")
            assert await app.read(6) == b"answer"
    assert len(seen.of(MOVED)) == len(agents)
    assert not seen.of("disconnected")


async def test_it_is_the_relay_where_the_far_agents_are(place: Place) -> None:
    """And not whichever answers first, although there are others."""
    second = place.relay_at("127.0.0.2", SECOND_RELAY)
    recorder = Recorder(place.network.dialer(PROVIDER))
    recorder.wrong = ["127.0.0.1"]
    async with place.agent(options=BOTH, dialer=recorder) as agent:
        await second.accept()
        await place.seen.wait("connected")
        recorder.wrong = []
        recorder.asked.clear()
        agent.proof.renew(NEXT)
        await second.accept()
        await place.seen.wait("connected", count=2)
    assert [address for address, _ in recorder.asked] == [("127.0.0.2", 7443)]


async def test_a_relay_that_does_not_take_it_is_asked_again(place: Place) -> None:
    """The old connection serves meanwhile."""
    recorder = Recorder(place.network.dialer(PROVIDER))
    async with place.agent(consume=[SERVICE], dialer=recorder) as agent:
        old, _ = await greeted(place.relay)
        await place.seen.wait("connected")
        recorder.wrong = ["127.0.0.1"]
        agent.proof.renew(NEXT)
        line = await place.seen.wait("not connected with the new certificate", count=2)
        assert "its certificate is wrong" in str(line["error"])
        async with running_stream(agent, old):
            recorder.wrong = []
            await greeted(place.relay)
            await place.seen.wait(MOVED)


async def test_a_connection_that_shows_the_new_one_stays(place: Place) -> None:
    async with place.agent() as agent:
        link, _ = await greeted(place.relay)
        await place.seen.wait("connected")
        link.connection.close(ErrorCode.INTERNAL, "gone")
        await place.seen.wait("disconnected")
        agent.proof.renew(NEXT)
        await greeted(place.relay)
        await place.seen.wait("connected", count=2)
        await everybody_waits()
    assert not place.seen.of(MOVED)


async def test_of_two_better_connections_one_is_taken(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over quic, which gets through just when there is a new certificate, or over tcp."""
    monkeypatch.setattr(climb, "FIRST", 0.01)
    await place.relay.listener.close()
    tcp = RelayPeer(place.network.listen(TCP, RELAY))
    async with place.agent(options=replace(OPTIONS, relays_tcp=(TCP,))) as agent:
        old, _ = await greeted(tcp)
        await place.seen.wait("connected")
        agent.proof.renew(NEXT)
        links = [await each.connected() for each in (tcp, place.relay_at("127.0.0.1"))]
        for each in links:
            await each.hello()
        for each in links:
            await each.acknowledge()
        await old.connection.wait_closed()
        await place.seen.wait("connected", count=2)
        loop = asyncio.get_running_loop()
        ends = [loop.create_task(each.connection.wait_closed()) for each in links]
        closed, open_ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        assert (len(closed), len(open_)) == (1, 1)
        for end in open_:
            end.cancel()


async def test_over_tcp_as_well(place: Place) -> None:
    tcp = RelayPeer(place.network.listen(TCP, RELAY))
    async with place.agent(options=replace(OPTIONS, relays=(), relays_tcp=(TCP,))) as agent:
        await greeted(tcp)
        await place.seen.wait("connected")
        agent.proof.renew(NEXT)
        await greeted(tcp)
        line = await place.seen.wait("connected", count=2)
    assert line["address"] == "127.0.0.1:443"

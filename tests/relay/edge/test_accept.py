"""Connections: HELLO, who is refused, who replaces whom, and how a connection ends."""

from __future__ import annotations

import asyncio
import time

import pytest

from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.errors import Closed, ErrorCode, Reset
from outrelay.lib.identity.uri import Identity
from outrelay.lib.orp.frame import FrameType, encode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.values import address_text
from outrelay.relay.limits import Limits
from tests.relay.rooms import call, relay_rooms, severed
from tests.support.peers import (
    AGENT_A,
    AGENT_B,
    AGENT_C,
    FEATURES,
    STRANGER,
    AgentPeer,
    accept,
)
from tests.support.turns import until
from tests.support.virtual_loop import elapsed

ANOTHER_RELAY = Identity.parse("outrelay://local/relay/r2")
ONE = b"1" * 16
TWO = b"2" * 16


async def close_code(peer: AgentPeer) -> Closed:
    """How the relay closed the connection."""
    closed = await peer.connection.wait_closed()
    assert closed.by_peer
    return closed


async def test_hello_is_answered_with_what_this_relay_accepts() -> None:
    async with relay_rooms() as relay:
        peer = await relay.peer(AGENT_A)
        before = time.time() * 1000
        ack = await peer.hello("goaway/1", "deregister/1", "resume/2", "unheard-of/9")

        assert list(ack.accepted_features) == ["deregister/1", "goaway/1", "resume/2"]
        assert before - 1 <= ack.server_time_unix_ms <= time.time() * 1000 + 1
        other = await (await relay.peer(AGENT_B)).hello()
        assert list(other.accepted_features) == []
        assert ack.session_id
        assert ack.session_id != other.session_id


async def test_a_uri_that_is_not_the_certificates_is_refused() -> None:
    async with relay_rooms() as relay:
        peer = await relay.peer(AGENT_A)
        with pytest.raises(Closed):
            await peer.hello(uri=AGENT_B.uri)

        closed = await close_code(peer)
        assert closed.code is ErrorCode.DENIED
        assert AGENT_A.uri in closed.reason
        assert AGENT_B.uri in closed.reason
        assert list(relay.roster) == []


async def test_a_relays_certificate_is_not_served() -> None:
    async with relay_rooms() as relay:
        peer = await relay.peer(ANOTHER_RELAY)

        closed = await close_code(peer)
        assert closed.code is ErrorCode.PROTOCOL
        assert "agents" in closed.reason


async def test_a_relay_of_one_tenant_serves_no_other() -> None:
    async with relay_rooms(tenant="acme") as relay:
        closed = await close_code(await relay.peer(STRANGER))
        assert closed.code is ErrorCode.DENIED

        await relay.agent(AGENT_A)


@pytest.mark.virtual_time
async def test_silence_instead_of_hello_is_waited_for_five_seconds() -> None:
    async with relay_rooms() as relay:
        peer = await relay.peer(AGENT_A)

        closed = await close_code(peer)
        assert closed.code is ErrorCode.PROTOCOL
        assert "HELLO" in closed.reason
        assert elapsed() == 5.0


@pytest.mark.virtual_time
async def test_half_a_hello_is_waited_for_no_longer() -> None:
    async with relay_rooms() as relay:
        peer = await relay.peer(AGENT_A)
        await peer.open_control()
        await asyncio.sleep(4.9)
        await peer.control.write(b"\x20\x01\x00")

        assert (await close_code(peer)).code is ErrorCode.PROTOCOL
        assert elapsed() == 5.0


HOSTILE = {
    "another frame": encode(FrameType.REGISTER, orp.Register(service_name="echo")),
    "an unknown frame": b"\x27\xff\x00\x00\x00\x00\x00\x00",
    "another version": b"\x40\x01\x00\x00\x00\x00\x00\x00",
    "a frame that is too long": b"\x20\x01\x00\x00\x00\x01\x00\x01",
    "no protobuf": b"\x20\x01\x00\x00\x00\x00\x00\x02\xff\xff",
    "plain HTTP": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("first", HOSTILE.values(), ids=HOSTILE.keys())
async def test_anything_but_hello_is_refused(first: bytes) -> None:
    async with relay_rooms() as relay:
        peer = await relay.peer(AGENT_A)
        await peer.open_control()
        await peer.control.write(first)

        assert (await close_code(peer)).code is ErrorCode.PROTOCOL


async def test_a_control_stream_that_is_reset_before_hello_is_refused() -> None:
    async with relay_rooms() as relay:
        peer = await relay.peer(AGENT_A)
        await peer.open_control()
        peer.control.reset(ErrorCode.CANCELLED)

        assert (await close_code(peer)).code is ErrorCode.PROTOCOL


async def test_a_connection_that_goes_before_hello_is_forgotten() -> None:
    async with relay_rooms() as relay:
        peer = await relay.peer(AGENT_A)
        await until(
            lambda: relay.metric("outrelay_connections", role="agent", carrier="memory") > 0
        )
        severed(peer)

        await until(
            lambda: relay.metric("outrelay_connections", role="agent", carrier="memory") == 0
        )
        await relay.agent(AGENT_B)


@pytest.mark.parametrize(
    "hostile",
    [HOSTILE["another version"], HOSTILE["a frame that is too long"], HOSTILE["no protobuf"]],
)
async def test_a_control_stream_that_turns_hostile_ends_the_connection(hostile: bytes) -> None:
    async with relay_rooms() as relay:
        victim = await relay.agent(AGENT_B)
        peer = await relay.agent(AGENT_A)
        await peer.control.write(hostile)

        assert (await close_code(peer)).code is ErrorCode.PROTOCOL
        await victim.ping()


async def test_a_second_hello_ends_the_connection() -> None:
    async with relay_rooms() as relay:
        peer = await relay.agent(AGENT_A)
        await peer.send(FrameType.HELLO, orp.Hello(agent_uri=AGENT_A.uri))

        assert (await close_code(peer)).code is ErrorCode.PROTOCOL


async def test_a_control_stream_that_ends_is_the_end_of_the_connection() -> None:
    async with relay_rooms() as relay:
        peer = await relay.agent(AGENT_A)
        peer.control.finish()

        assert (await close_code(peer)).code is ErrorCode.NONE
        await until(lambda: not list(relay.roster))


async def test_a_control_stream_that_is_reset_is_the_end_of_the_connection() -> None:
    async with relay_rooms() as relay:
        peer = await relay.agent(AGENT_A)
        peer.control.reset(ErrorCode.CANCELLED)

        assert (await close_code(peer)).code is ErrorCode.CANCELLED


async def test_a_control_stream_that_is_not_taken_is_the_end_of_the_connection() -> None:
    async with relay_rooms() as relay:
        peer = await relay.agent(AGENT_A)
        peer.control.stop(ErrorCode.CANCELLED)
        await peer.ask_to_register("echo")

        assert (await close_code(peer)).code is ErrorCode.CANCELLED


async def test_the_same_process_replaces_its_connection() -> None:
    async with relay_rooms() as relay:
        first = await relay.agent(AGENT_B, instance=ONE)
        await first.register("echo")
        second = await relay.agent(AGENT_B, instance=ONE)

        assert (await close_code(first)).code is ErrorCode.REPLACED
        consumer = await relay.agent(AGENT_A)
        await consumer.open("echo", stream_id=7)  # what the first had offered goes on
        _stream, incoming = await second.incoming()
        assert incoming.stream_id == 7


async def test_the_end_of_a_replaced_connection_takes_nothing_with_it() -> None:
    async with relay_rooms() as relay:
        first = await relay.agent(AGENT_B, instance=ONE)
        await first.register("echo")
        second = await relay.agent(AGENT_B, instance=ONE)
        await close_code(first)
        await until(
            lambda: relay.metric("outrelay_connections", role="agent", carrier="memory") == 1
        )

        assert len(list(relay.roster)) == 1
        assert [one.services.keys() for one in relay.roster] == [{"echo"}]
        await second.ping()


@pytest.mark.parametrize("instances", [(ONE, TWO), (b"", b""), (b"short", b"short")])
async def test_other_processes_live_side_by_side_and_the_newest_is_called_first(
    instances: tuple[bytes, bytes],
) -> None:
    async with relay_rooms() as relay:
        older = await relay.agent(AGENT_B, instance=instances[0])
        newer = await relay.agent(AGENT_B, instance=instances[1])
        await newer.register("echo")
        await older.register("echo")
        consumer = await relay.agent(AGENT_A)

        await consumer.open("echo", stream_id=7)
        stream, _incoming = await newer.incoming()
        await accept(stream)
        await consumer.ready()
        newer.connection.close()
        await until(lambda: len(relay.roster.of(AGENT_B.uri)) == 1)
        await consumer.open("echo", stream_id=8)
        _stream, incoming = await older.incoming()
        assert incoming.stream_id == 8


@pytest.mark.parametrize(("instances", "second"), [((ONE, TWO), 0), ((b"", b""), 1)])
async def test_processes_share_the_calls_and_one_that_connected_anew_gets_all(
    instances: tuple[bytes, bytes], second: int
) -> None:
    async with relay_rooms() as relay:
        peers = [await relay.agent(AGENT_B, instance=instance) for instance in instances]
        for peer in peers:
            await peer.register("echo")
        consumer = await relay.agent(AGENT_A)
        for stream_id, taker in ((7, peers[1]), (8, peers[second])):
            await consumer.open("echo", stream_id=stream_id)
            stream, incoming = await taker.incoming()
            assert incoming.stream_id == stream_id
            await accept(stream)


async def test_connections_of_one_agent_are_bounded() -> None:
    async with relay_rooms(limits=Limits(connections_per_agent=2)) as relay:
        for _ in range(2):
            await relay.agent(AGENT_A)
        third = await relay.peer(AGENT_A)
        with pytest.raises(Closed):
            await third.hello()

        assert (await close_code(third)).code is ErrorCode.LIMIT
        await relay.agent(AGENT_B)


# ---- the certificate's end ---------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("says_hello", [True, False])
async def test_a_connection_ends_with_its_certificate(*, says_hello: bool) -> None:
    async with relay_rooms(limits=Limits(hello_timeout=9999)) as relay:
        peer = await relay.peer(AGENT_A, expires=time.time() + 3600)
        if says_hello:
            await peer.hello()

        closed = await close_code(peer)
        assert closed.code is ErrorCode.DENIED
        assert "certificate" in closed.reason
        assert elapsed() == pytest.approx(3600, abs=60)
        await until(lambda: not list(relay.roster))


async def test_a_certificate_that_has_ended_opens_nothing() -> None:
    async with relay_rooms() as relay:
        peer = await relay.peer(AGENT_A, expires=time.time() - 1)

        assert (await close_code(peer)).code is ErrorCode.DENIED


@pytest.mark.virtual_time
async def test_what_its_certificate_carried_ends_and_the_next_calls_go_to_others() -> None:
    async with relay_rooms() as relay:
        brief = await relay.peer(AGENT_B, expires=time.time() + 3600)
        await brief.hello(*FEATURES)
        await brief.register("echo")
        line = await call(relay, stream_id=1, provider=brief)
        other = await relay.provider(AGENT_C)
        with pytest.raises(Reset) as caught:
            await line.near.read()
        assert caught.value.code is ErrorCode.LEG_LOST
        await call(relay, stream_id=2, consumer=line.consumer, provider=other)


@pytest.mark.virtual_time
async def test_a_connection_with_a_renewed_certificate_lives_on() -> None:
    async with relay_rooms() as relay:
        first = await relay.peer(AGENT_B, expires=time.time() + 3600)
        await first.hello(*FEATURES, instance=ONE)
        await first.register("echo")
        await asyncio.sleep(1800)
        renewed = await relay.peer(AGENT_B, expires=time.time() + 7200)  # so much is left of it
        await renewed.hello(*FEATURES, instance=ONE)
        assert (await close_code(first)).code is ErrorCode.REPLACED
        line = await call(relay, provider=renewed)

        await asyncio.sleep(7000)  # long after the first one's end
        await line.near.write(b"still here")
        assert await line.far.read() == b"still here"
        assert elapsed() == 8800.0
        assert (await close_code(renewed)).code is ErrorCode.DENIED


def row(
    name: str, relay: str, endpoint: str, *, tenant: str = "acme", healthy: bool = True
) -> registry.Provider:
    """A service behind another relay, as the registry has it."""
    return registry.Provider(
        service_id=f"{tenant}/{name}",
        agent_uri=AGENT_C.uri,
        relay_id=relay,
        relay_endpoint=endpoint,
        healthy=healthy,
    )


async def test_a_draining_relay_turns_new_connections_away_and_serves_the_others() -> None:
    async with relay_rooms() as relay:
        provider = await relay.provider()
        consumer = await relay.agent(AGENT_A)
        moving = await relay.agent(AGENT_C, *FEATURES)
        greeting = await relay.peer(AGENT_C)
        add = relay.directory.add
        add(row("a", "r2", "r2:7443"))
        add(row("b", "r3", "r3:7443"))
        add(row("c", "r4", "r4:7443", healthy=False))
        add(row("d", "r1", address_text(relay.listener.address)))
        add(row("e", "r5", "r5:7443", tenant="globex"))
        relay.edge.drain(2.5)

        goaway = await moving.expect(FrameType.GOAWAY, orp.Goaway)
        assert goaway == orp.Goaway(
            reason="this relay is shutting down",
            alternate_endpoints=["r2:7443", "r3:7443"],
            drain_ms=2500,
        )
        with pytest.raises(Closed):
            await greeting.hello(*FEATURES)
        await provider.expect(FrameType.GOAWAY, orp.Goaway)
        await consumer.ping()  # a plain agent is told nothing
        assert (await close_code(await relay.peer(AGENT_A))).code is ErrorCode.DRAIN
        await consumer.open("echo", stream_id=7)
        await provider.incoming()


async def test_a_fault_of_ours_ends_one_connection_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with relay_rooms() as relay:
        victim = await relay.agent(AGENT_B)
        peer = await relay.agent(AGENT_A)

        def broken(*_: object) -> None:
            raise RuntimeError("bug")

        monkeypatch.setattr(relay.directory, "offer", broken)
        await peer.ask_to_register("echo")

        assert (await close_code(peer)).code is ErrorCode.INTERNAL
        assert "task failed" in caplog.text
        await victim.ping()


async def test_closed_it_tells_every_agent() -> None:
    async with relay_rooms() as relay:
        line = await call(relay)
        relay.edge.close(ErrorCode.DRAIN, "going")

        for peer in (line.consumer, line.provider):
            closed = await close_code(peer)
            assert (closed.code, closed.reason) == (ErrorCode.DRAIN, "going")


async def test_an_idle_connection_takes_three_tasks() -> None:
    """One takes its streams, one reads its control stream, one writes that."""
    async with relay_rooms() as relay:
        before = len(asyncio.all_tasks())
        for _ in range(50):
            await relay.agent(AGENT_A)

        assert len(asyncio.all_tasks()) - before == 3 * 50


async def test_the_roster_tells_when_a_tenant_comes_and_goes() -> None:
    async with relay_rooms() as relay:
        told: list[set[str]] = []
        relay.roster.subscribe(lambda: told.append(set(relay.roster.tenants)))
        for agent in (AGENT_A, AGENT_A, AGENT_B, STRANGER):
            await relay.agent(agent, instance=ONE)
        for session in list(relay.roster):
            relay.roster.leave(session)
            relay.roster.leave(session)  # which is no harm

        assert told == [{"acme"}, {"acme", "globex"}, {"globex"}, set()]

"""HELLO, registrations, the control stream."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from google.protobuf.empty_pb2 import Empty

from outrelay.agent import hints
from outrelay.agent.options import AgentOptions, Limits
from outrelay.agent.session import registration, session, uplink
from outrelay.lib.errors import ErrorCode, Refused
from outrelay.lib.orp.frame import encode
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.tasks import beside
from outrelay.lib.transport.memory import MemoryNetwork
from outrelay.lib.transport.refusal import Cause
from tests.agent.place import AGENT, OPTIONS, SERVICE, Place
from tests.support.events import Events
from tests.support.ports import unused_port
from tests.support.relay_peer import Link, read_exactly
from tests.support.turns import everybody_waits


def limited(**limits: float) -> AgentOptions:
    return replace(OPTIONS, limits=Limits(**limits))


async def test_hello_says_who_we_are_and_what_we_can(place: Place) -> None:
    async with place.agent():
        link = await place.relay.connected()
        first = await link.hello()
        assert (first.protocol_version, first.agent_uri) == ("orp/1", AGENT.uri)
        assert list(first.capabilities) == ["deregister/1", "goaway/1", "resume/2"]
        assert len(first.instance) == 16
        await link.acknowledge()
        link.connection.close()
        second = await (await place.relay.connected()).hello()
        assert second.instance == first.instance
    async with place.agent():
        assert (await (await place.relay.connected()).hello()).instance != first.instance


async def test_services_are_registered_and_the_agent_is_ready(place: Place) -> None:
    ports = {"db": unused_port(), "cache": unused_port()}
    async with place.agent(expose=ports):
        link = await place.relay.accept()
        registers = [await next_register(link) for _ in ports]
        assert {each.service_name for each in registers} == set(ports)
        assert registers[0].local_addr == f"127.0.0.1:{ports[registers[0].service_name]}"
        await acknowledge(link, registers[0])
        await place.seen.wait("registered", service=registers[0].service_name)
        assert place.seen.of("ready") == []
        await acknowledge(link, registers[1])
        await place.seen.wait("ready")


async def next_register(link: Link) -> orp.Register:
    frame = await link.frame()
    assert frame is not None
    assert frame.type == FrameType.REGISTER
    return orp.Register.FromString(frame.payload)


async def acknowledge(link: Link, register: orp.Register) -> None:
    ack = orp.RegisterAck(service_id=f"acme/{register.service_name}")
    await link.send(FrameType.REGISTER_ACK, ack)


async def test_an_agent_without_services_is_ready_at_once(place: Place) -> None:
    async with place.agent():
        await place.relay.accept()
        await place.seen.wait("ready")


async def test_services_are_registered_again_after_a_reconnect(place: Place) -> None:
    async with place.provider(unused_port()) as (_, link):
        await place.seen.wait("ready")
        link.connection.close(ErrorCode.DRAIN, "restart")
        link = await place.relay.accept()
        assert await link.registered() == SERVICE
        await place.seen.wait("registered", count=2)
        await place.seen.wait("disconnected", reason="closed by peer (DRAIN): restart")
        assert len(place.seen.of("ready")) == 1


@pytest.mark.parametrize(
    ("code", "hint"),
    [(403, "--method REGISTER --decision allow"), (429, "split them"), (400, "versions")],
)
async def test_a_refused_registration_is_explained_and_tried_again(
    place: Place, code: int, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "RETRY_FIRST", 0.01)
    async with place.agent(expose={SERVICE: unused_port()}):
        link = await place.relay.accept()
        await next_register(link)
        nack = orp.StreamReject(code=code, reason="the reason", service_name=SERVICE)
        await link.send(FrameType.REGISTER_NACK, nack)
        line = await place.seen.wait("registration refused", service=SERVICE)
        assert line["reason"] == f"{code} the reason"
        assert hint in str(line["hint"])
        assert await link.registered() == SERVICE
        await place.seen.wait("registered")


async def test_an_unanswered_registration_is_tried_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "RETRY_FIRST", 0.01)
    async with place.agent(expose={SERVICE: unused_port()}, options=limited(register=0.02)):
        link = await place.relay.accept()
        await next_register(link)
        await place.seen.wait("registration not answered, trying again")
        assert await link.registered() == SERVICE
        await place.seen.wait("registered")


async def test_answers_nobody_waits_for_are_ignored(place: Place) -> None:
    async with place.provider(unused_port()) as (_, link):
        await link.send(FrameType.REGISTER_ACK, orp.RegisterAck(service_id="acme/db"))
        await link.send(FrameType.REGISTER_NACK, orp.StreamReject(service_name="db"))
        await link.send(FrameType.REGISTER_ACK, orp.RegisterAck(service_id="nonsense"))
        await link.ready(12345)
        await answers_ping(link)


async def answers_ping(link: Link) -> None:
    await link.send(FrameType.PING, Empty())
    frame = await link.frame()
    assert frame is not None
    assert frame.type == FrameType.PONG


async def test_frames_we_do_not_know_are_skipped_and_logged_once(place: Place) -> None:
    async with place.agent():
        link = await place.relay.accept()
        for kind in (0x7FF, 0x7FF, 0x030):
            await link.control.write((0x2000 | kind).to_bytes(2) + bytes(6))
        await link.send(FrameType.GOAWAY, orp.Goaway())
        await answers_ping(link)
        (line,) = place.seen.of("unknown frames are skipped")
        assert line["first"] == "0x7ff"


async def test_frames_that_come_in_floods_leave_others_their_turn(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "TURN", 1)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with place.agent():
        link = await place.relay.accept()
        await place.seen.wait("connected")
        await link.control.write(encode(FrameType.STREAM_READY, orp.StreamReady()) * 500)
        async with beside(others(), name="others"):
            await answers_ping(link)
    assert turns > 500


@pytest.mark.parametrize(
    "data",
    [b"\x40" + bytes(7), b"\x20\x01\x00\x00\xff\xff\xff\xff", b"\x21\x52\0\0\0\0\0\x01\xff"],
    ids=["version", "length", "payload"],
)
async def test_nonsense_on_the_control_stream_closes_the_connection(
    place: Place, data: bytes
) -> None:
    async with place.agent():
        link = await place.relay.accept()
        await link.control.write(data)
        closed = await link.connection.wait_closed()
        assert (closed.by_peer, closed.code) == (True, ErrorCode.PROTOCOL)
        await place.seen.wait("disconnected")
        await place.relay.accept()


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_control_stream_that_ends_closes_the_connection(place: Place, how: str) -> None:
    async with place.agent():
        link = await place.relay.accept()
        if how == "end":
            link.control.finish()
        else:
            link.control.reset(ErrorCode.CANCELLED)
        assert (await link.connection.wait_closed()).code is ErrorCode.PROTOCOL


async def test_a_relay_that_does_not_answer_hello_is_left(place: Place) -> None:
    async with place.agent(options=limited(hello=0.02)):
        link = await place.relay.connected()
        await link.hello()
        assert (await link.connection.wait_closed()).code is ErrorCode.PROTOCOL
        line = await place.seen.wait("no relay connected")
        assert "no HELLO_ACK within 0.02 s" in str(line["error"])
        await place.relay.accept()
        await place.seen.wait("connected")


async def test_another_answer_to_hello_is_none(place: Place) -> None:
    async with place.agent():
        link = await place.relay.connected()
        await link.send(FrameType.PING, Empty())
        line = await place.seen.wait("no relay connected")
        assert "expected HELLO_ACK, got PING" in str(line["error"])


@pytest.mark.parametrize("code", [ErrorCode.DENIED, ErrorCode.PROTOCOL, ErrorCode.REPLACED])
async def test_a_relay_that_refuses_hello_for_good_ends_the_agent(
    place: Place, code: ErrorCode
) -> None:
    async with place.agent() as agent:
        link = await place.relay.connected()
        link.connection.close(code, "not you")
        with pytest.raises(Refused, match=f"not you; {hints.FOR_HELLO}") as refused:
            await agent.ended()
        assert (refused.value.final, refused.value.cause) == (True, Cause.HELLO)


async def test_a_relay_that_refuses_hello_for_now_is_asked_again(place: Place) -> None:
    async with place.agent():
        link = await place.relay.connected()
        link.connection.close(ErrorCode.LIMIT, "full")
        await place.relay.accept()
        await place.seen.wait("connected")


async def test_stopping_while_hello_is_not_answered_closes_the_connection(place: Place) -> None:
    async with place.agent() as agent:
        link = await place.relay.connected()
        agent.stop.set()
        await agent.ended()
        assert (await link.connection.wait_closed()).by_peer


@pytest.fixture
async def narrow(seen: Events) -> Place:
    """A place whose relay gives credit for two streams: control and one more."""
    return Place(seen, MemoryNetwork(max_streams=2))


async def test_a_relay_without_credit_for_streams_is_a_refusal(narrow: Place) -> None:
    async with narrow.consumer(options=limited(open=0.02)) as (agent, link):
        with await agent.app() as app:
            await link.spliced()
            with await agent.app() as second:
                assert await second.until_reset() == b""
            line = await narrow.seen.wait("open refused", code=429)
            assert "no more streams" in str(line["reason"])
            await app.send(b"still here")


async def test_without_credit_from_a_plain_relay_new_streams_use_a_fresh_connection(
    narrow: Place,
) -> None:
    async with narrow.consumer(features=(), options=limited(open=0.02)) as (agent, old):
        with await agent.app() as app, await agent.app() as second:
            first = await old.spliced()
            new = await narrow.relay.accept(())
            opened = await new.spliced()
            await second.send(b"new")
            assert await read_exactly(opened.stream, 3) == b"new"
            await app.send(b"old")
            assert await read_exactly(first.stream, 3) == b"old"
            app.end()
            first.stream.finish()
            assert await app.read_all() == b""
            assert (await old.connection.wait_closed()).by_peer
            await second.send(b"!")
            assert await read_exactly(opened.stream, 1) == b"!"


async def test_services_are_offered_again_when_a_plain_relays_old_connection_ends(
    narrow: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink, "PLAIN_SETTLES", 0.01)
    async with narrow.agent(
        consume=[SERVICE], expose={"web": unused_port()}, options=limited(open=0.02)
    ) as agent:
        old = await narrow.relay.accept(())
        assert await old.registered() == "web"
        with await agent.app() as app, await agent.app() as second:
            first = await old.spliced()
            new = await narrow.relay.accept(())
            assert await new.registered() == "web"
            opened = await new.spliced()
            app.end()
            first.stream.finish()
            assert await app.read_all() == b""
            assert (await old.connection.wait_closed()).by_peer
            assert await new.registered() == "web"
            await second.send(b"!")
            assert await read_exactly(opened.stream, 1) == b"!"


async def test_a_connection_that_ends_is_told_to_an_opening_stream(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.opened()
            await opened.stream.write(bytes(70_000))  # more than is held: nobody reads it now
            await everybody_waits()
            link.connection.close()
            again = await place.relay.accept()
            opened = await again.spliced()
            await opened.stream.write(b"hello")
            assert await app.read(5) == b"hello"

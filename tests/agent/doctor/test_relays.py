"""What the doctor says of relays that answer, refuse, fall silent or are not there."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest
from google.protobuf.empty_pb2 import Empty

from outrelay.agent.doctor import relays
from outrelay.agent.doctor.findings import Finding, Mark
from outrelay.agent.doctor.relays import Answer, Way
from outrelay.lib.errors import Closed, ErrorCode
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Dialer
from outrelay.lib.transport.quic import QuicEndpoint
from outrelay.lib.transport.ways import Carrier, Endpoint, Route
from outrelay.lib.values import Address
from tests.agent.place import AGENT, Place
from tests.support.pki import TestPki
from tests.support.relay_peer import Link, RelayPeer

HERE = ("127.0.0.1", 7443)
PKI = TestPki()


@pytest.fixture
async def quic() -> AsyncIterator[tuple[QuicEndpoint, RelayPeer]]:
    """The doctor's endpoint, and a relay to dial."""
    loopback = ("127.0.0.1", 0)
    listener = await QuicEndpoint.bind(loopback, credentials=PKI.relay(), trust=PKI.trust)
    dialer = await QuicEndpoint.bind(loopback, credentials=PKI.agent(), trust=PKI.trust)
    yield dialer, RelayPeer(listener)
    await asyncio.gather(listener.close(), dialer.close())


def way(dialer: Dialer, endpoint: Address = HERE) -> Way:
    route = Route(dialer, endpoint)
    return Way(endpoint=Endpoint(Carrier.QUIC, endpoint), route=route, server_name="localhost")


async def examined(way: Way, relay: Callable[[], Awaitable[None]]) -> list[Answer]:
    """What the doctor finds while ``relay`` is played."""
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(play(relay))
        answers = await relays.check(way, AGENT)
        playing.cancel()
    return answers


async def play(relay: Callable[[], Awaitable[None]]) -> None:
    with suppress(Closed):  # the doctor has seen enough
        await relay()


async def answer(peer: RelayPeer, *, server_time: int = 0) -> None:
    """HELLO_ACK, and PONG to every PING."""
    link = await peer.connected()
    await link.hello()
    await link.send(FrameType.HELLO_ACK, orp.HelloAck(server_time_unix_ms=server_time))
    await pong(link)


async def pong(link: Link) -> None:
    while frame := await link.frame():
        if frame.type == FrameType.PING:  # what it does not know a relay skips
            await link.send(FrameType.PONG, Empty())


async def test_a_relay_that_answers_is_fine(place: Place) -> None:
    dialer = place.network.dialer(AGENT)
    now = int(time.time() * 1000)
    answers = await examined(way(dialer), lambda: answer(place.relay, server_time=now))
    (finding,) = [each.finding for each in answers]
    assert finding.mark is Mark.OK
    assert finding.text.startswith("outrelay://local/relay/r1 at 127.0.0.1:7443 answers in ")
    clock = relays.clock(answers)
    assert clock == Finding(subject="clock", mark=Mark.OK, text="agrees with the relay's")


@pytest.mark.parametrize("goes_on", [True, False])
async def test_what_a_relay_tells_every_process_of_the_agent_is_not_for_the_doctor(
    place: Place, goes_on: bool
) -> None:
    async def relay() -> None:
        link = await place.relay.connected()
        await link.hello()
        await link.send(FrameType.HELLO_ACK, orp.HelloAck())
        ended = orp.StreamEnded(stream_id=7, code=ErrorCode.LEG_LOST)
        await link.send(FrameType.STREAM_ENDED, ended)
        if goes_on:
            await pong(link)
        else:
            link.control.finish()

    (answer,) = await examined(way(place.network.dialer(AGENT)), relay)
    assert answer.finding.mark is (Mark.OK if goes_on else Mark.FAIL)
    assert goes_on or "broke off" in answer.finding.text


async def test_over_quic_it_tells_what_the_path_carries(
    quic: tuple[QuicEndpoint, RelayPeer],
) -> None:
    dialer, peer = quic
    answers = await examined(way(dialer, peer.listener.address), lambda: answer(peer))
    assert "the path carries datagrams of 1452 bytes" in answers[0].finding.text


async def test_a_relay_without_a_clock_says_nothing_of_ours(place: Place) -> None:
    answers = await examined(way(place.network.dialer(AGENT)), lambda: answer(place.relay))
    assert answers[0].skew is None
    assert relays.clock(answers) is None


@pytest.mark.parametrize(("ahead", "side"), [(60, "behind"), (-60, "ahead of")])
async def test_a_clock_that_is_off_is_a_warning(place: Place, ahead: int, side: str) -> None:
    theirs = int((time.time() + ahead) * 1000)
    dialer = place.network.dialer(AGENT)
    answers = await examined(way(dialer), lambda: answer(place.relay, server_time=theirs))
    clock = relays.clock(answers)
    assert clock is not None
    assert clock.mark is Mark.WARN
    assert clock.text == f"60 s {side} the relay's"
    assert "NTP" in clock.advice


async def test_a_relay_that_answers_no_ping_is_fine(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "PING_LIMIT", 0.02)

    async def silent() -> None:
        link = await place.relay.accept()
        while await link.frame():
            pass

    answers = await examined(way(place.network.dialer(AGENT)), silent)
    assert answers[0].finding.mark is Mark.OK


async def test_a_relay_that_refuses_us_fails(place: Place) -> None:
    async def refuse() -> None:
        link = await place.relay.connected()
        await link.hello()
        link.connection.close(ErrorCode.DENIED, "not this tenant")

    answers = await examined(way(place.network.dialer(AGENT)), refuse)
    assert answers[0].finding.mark is Mark.FAIL
    assert "not this tenant" in answers[0].finding.text


async def test_a_relay_that_breaks_off_fails(place: Place) -> None:
    async def break_off() -> None:
        link = await place.relay.accept()
        await link.frame()
        link.connection.close(ErrorCode.DRAIN, "draining")

    answers = await examined(way(place.network.dialer(AGENT)), break_off)
    assert answers[0].finding.mark is Mark.FAIL
    assert "broke off" in answers[0].finding.text


async def test_a_certificate_of_another_ca_is_named(
    quic: tuple[QuicEndpoint, RelayPeer],
) -> None:
    dialer, _ = quic
    stranger = await QuicEndpoint.bind(
        ("127.0.0.1", 0), credentials=TestPki().relay(), trust=PKI.trust
    )
    try:
        answers = await relays.check(way(dialer, stranger.address), AGENT)
    finally:
        await stranger.close()
    assert answers[0].finding.mark is Mark.FAIL
    assert "need one CA" in answers[0].finding.advice


async def test_nobody_there_tells_of_the_firewall(
    quic: tuple[QuicEndpoint, RelayPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "ANSWER_LIMIT", 0.1)
    dialer, _ = quic
    with socket.socket(type=socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        answers = await relays.check(way(dialer, ("127.0.0.1", port)), AGENT)
    finding = answers[0].finding
    assert (finding.mark, finding.text) == (
        Mark.FAIL,
        f"127.0.0.1:{port} does not answer within 0.1 s",
    )
    assert f"allow outgoing UDP to port {port}" in finding.advice


async def test_a_name_without_an_address_fails(place: Place) -> None:
    nowhere = way(place.network.dialer(AGENT), ("no-such-name.invalid", 7443))
    (only,) = await relays.check(nowhere, AGENT)
    assert only.finding.mark is Mark.FAIL
    assert "DNS" in only.finding.advice

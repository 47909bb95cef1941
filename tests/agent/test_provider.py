"""Streams from the relay: accepted, refused, given up."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import pytest

from outrelay.agent import sockets
from outrelay.agent.options import Limits
from outrelay.lib.errors import ErrorCode, Refused, Reset
from outrelay.lib.orp.frame import encode
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.values import Address
from tests.agent.place import OPTIONS, SERVICE, Place
from tests.agent.tcp import HOST, Backend
from tests.support.ports import unused_port
from tests.support.relay_peer import CONSUMER, FEATURES, read_all, read_exactly, reset_code
from tests.support.turns import everybody_waits

pytestmark = pytest.mark.both_loops


async def test_bytes_pass_both_ways_until_both_ends(place: Place) -> None:
    with Backend() as backend:
        async with place.provider(backend.port) as (_, link):
            incoming = await link.served(SERVICE)
            with await backend.accept() as served:
                await incoming.stream.write(b"request")
                incoming.stream.finish()
                assert await served.read_all() == b"request"
                await served.send(b"response")
                served.end()
                assert await read_all(incoming.stream) == b"response"
            line = await place.seen.wait("stream opened", stream_id="0000000000000007")
            assert (line["service"], line["peer"], line["side"]) == (SERVICE, CONSUMER, "provider")
            line = await place.seen.wait("stream ended", reason="finished")
            assert (line["bytes_up"], line["bytes_down"]) == (7, 8)


async def test_the_backends_first_bytes_wait_for_ready(place: Place) -> None:
    with Backend() as backend:
        async with place.provider(backend.port) as (_, link):
            incoming = await link.incoming(SERVICE)
            with await backend.accept() as served:
                await served.send(b"220 hello")
                await incoming.accepted()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await incoming.stream.read()
                await link.ready(incoming.stream_id)
                assert await read_exactly(incoming.stream, 9) == b"220 hello"


async def test_a_request_and_its_end_that_overtake_ready_are_delivered_after_it(
    place: Place,
) -> None:
    with Backend() as backend:
        async with place.provider(backend.port) as (_, link):
            incoming = await link.incoming(SERVICE)
            await incoming.stream.write(b"request")
            incoming.stream.finish()
            with await backend.accept() as served:
                await incoming.accepted()
                await everybody_waits()
                await link.ready(incoming.stream_id)
                assert await served.read_all() == b"request"
                await served.send(b"response")
                served.end()
                assert await read_all(incoming.stream) == b"response"


async def test_an_unknown_service_is_refused(place: Place) -> None:
    async with place.provider(unused_port()) as (_, link):
        incoming = await link.incoming("cache")
        assert (await incoming.rejected()).code == 404
        await place.seen.wait("incoming stream refused", service="cache", peer=CONSUMER)


async def test_a_flood_of_streams_that_are_refused_is_a_few_lines(place: Place) -> None:
    async with place.provider(unused_port()) as (_, link):
        for number in range(1, 51):
            service = SERVICE if number % 2 else "cache"
            await (await link.incoming(service, stream_id=number)).rejected()
        for event in ("incoming stream refused", "backend failed"):
            await place.seen.wait(event)
            assert len(place.seen.of(event)) < 10


async def test_a_closed_backend_is_refused_without_naming_it(place: Place) -> None:
    port = unused_port()
    async with place.provider(port) as (_, link):
        reject = await (await link.incoming(SERVICE)).rejected()
        assert reject.code == 502
        assert reject.reason == "the provider's backend cannot be reached: Connection refused"
        await place.seen.wait("backend failed", target=f"{HOST}:{port}", service=SERVICE)


async def test_a_backend_without_address_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown(endpoint: Address) -> list[Address]:
        raise Refused(endpoint[0], "the name has no address: not known")

    monkeypatch.setattr(sockets, "resolve", unknown)
    async with place.provider(unused_port()) as (_, link):
        reject = await (await link.incoming(SERVICE)).rejected()
        assert reject.code == 502
        assert "the name has no address" in reject.reason


async def test_a_backend_that_does_not_answer_is_refused(place: Place) -> None:
    options = replace(OPTIONS, limits=Limits(backend=0.05))
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind((HOST, 0))
        full.listen(0)
        for each in (first, second):  # the backlog of 0 holds one connection
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        async with place.provider(full.getsockname()[1], options=options) as (_, link):
            reject = await (await link.incoming(SERVICE)).rejected()
            assert reject.code == 502
            assert "did not answer within 0.05 s" in reject.reason


async def test_more_streams_than_allowed_are_refused(place: Place) -> None:
    with Backend() as backend:
        options = replace(OPTIONS, max_streams=1)
        async with place.provider(backend.port, options=options) as (_, link):
            await link.served(SERVICE, 1)
            with await backend.accept():
                assert (await (await link.incoming(SERVICE, 2)).rejected()).code == 429


@pytest.mark.parametrize(
    "data",
    [
        encode(FrameType.OPEN_STREAM, orp.OpenStream(target_service=SERVICE, stream_id=7)),
        encode(FrameType.INCOMING_STREAM, orp.IncomingStream(target_service=SERVICE))[:-1],
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
    ],
    ids=["another frame", "cut", "text", "empty"],
)
async def test_a_stream_that_begins_otherwise_is_reset(place: Place, data: bytes) -> None:
    async with place.provider(unused_port()) as (_, link):
        stream = await link.connection.open_stream()
        await stream.write(data)
        stream.finish()
        assert await reset_code(stream) is ErrorCode.PROTOCOL
        await place.seen.wait("incoming stream dropped")


async def test_a_stream_that_does_not_begin_is_reset(place: Place) -> None:
    options = replace(OPTIONS, limits=Limits(open=0.02))
    async with place.provider(unused_port(), options=options) as (_, link):
        stream = await link.connection.open_stream()
        await stream.write(b"\x20")
        assert await reset_code(stream) is ErrorCode.PROTOCOL


async def test_without_ready_from_our_relay_a_stream_is_reset(place: Place) -> None:
    options = replace(OPTIONS, limits=Limits(provider_ready=0.05))
    with Backend() as backend:
        async with place.provider(backend.port, options=options) as (_, link):
            incoming = await link.incoming(SERVICE)
            with await backend.accept() as served:
                await incoming.accepted()
                assert await reset_code(incoming.stream) is ErrorCode.CANCELLED
                assert await served.until_reset() == b""
            await place.seen.wait("stream given up")


@pytest.mark.parametrize(
    ("features", "stream_id", "limit"),
    [((), 7, 0.05), ((), 0, 3600), (FEATURES, 0, 3600)],
    ids=["plain relay", "plain relay, no id", "our relay, a plain one's stream"],
)
async def test_where_ready_may_not_come_a_stream_goes_on(
    place: Place, features: tuple[str, ...], stream_id: int, limit: float
) -> None:
    options = replace(OPTIONS, limits=Limits(provider_ready=limit))
    with Backend() as backend:
        async with place.provider(backend.port, features=features, options=options) as (_, link):
            incoming = await link.incoming(SERVICE, stream_id)
            with await backend.accept() as served:
                await incoming.accepted()
                await served.send(b"hello")
                assert await read_exactly(incoming.stream, 5) == b"hello"


async def test_what_must_be_forwarded_is_never_spliced(place: Place) -> None:
    with Backend() as backend:
        async with place.provider(backend.port, features=()) as (_, link):
            incoming = await link.incoming(SERVICE)
            with await backend.accept() as served:
                await incoming.accepted()
                await served.send(b"secret")
                grant = orp.AllocGranted(stream_id=incoming.stream_id, my_allocation=1)
                await link.send(FrameType.ALLOC_GRANTED, grant)
                assert await reset_code(incoming.stream) is ErrorCode.CANCELLED
                assert await served.until_reset() == b""
            line = await place.seen.wait("stream given up")
            assert "forward mode" in str(line["reason"])


async def test_a_consumer_that_leaves_before_ready_ends_the_backends_connection(
    place: Place,
) -> None:
    with Backend() as backend:
        async with place.provider(backend.port) as (_, link):
            incoming = await link.incoming(SERVICE)
            with await backend.accept() as served:
                await incoming.accepted()
                incoming.stream.reset(ErrorCode.CANCELLED)
                incoming.stream.stop(ErrorCode.CANCELLED)
                assert await served.until_reset() == b""


async def test_a_backend_that_leaves_before_ready_ends_the_stream(place: Place) -> None:
    with Backend() as backend:
        async with place.provider(backend.port) as (_, link):
            incoming = await link.incoming(SERVICE)
            served = await backend.accept()
            await incoming.accepted()
            served.reset()
            assert await reset_code(incoming.stream) is ErrorCode.CANCELLED


async def test_a_connection_lost_before_ready_ends_the_backends_connection(place: Place) -> None:
    with Backend() as backend:
        async with place.provider(backend.port) as (_, link):
            incoming = await link.incoming(SERVICE)
            with await backend.accept() as served:
                await incoming.accepted()
                link.connection.close(ErrorCode.DRAIN)
                assert await served.until_reset() == b""


async def test_a_refusal_nobody_reads_is_given_up(place: Place) -> None:
    options = replace(OPTIONS, limits=Limits(open=0.05))
    async with place.provider(unused_port(), options=options) as (_, link):
        incoming = await link.incoming("cache")
        incoming.stream.stop(ErrorCode.CANCELLED)
        await place.seen.wait("refusal not delivered")
        with pytest.raises(Reset):
            await incoming.stream.read()


async def test_an_agent_uses_its_own_service(place: Place) -> None:
    with Backend() as backend:
        async with place.agent(expose={SERVICE: backend.port}, consume=[SERVICE]) as agent:
            link = await place.relay.accept()
            await link.registered()
            with await agent.app() as app:
                opened = await link.opened()
                incoming = await link.incoming(SERVICE, opened.stream_id)
                with await backend.accept() as served:
                    await incoming.accepted()
                    await link.ready(opened.stream_id)
                    await link.ready(opened.stream_id)
                    await app.send(b"request")
                    assert await read_exactly(opened.stream, 7) == b"request"
                    await served.send(b"response")
                    assert await read_exactly(incoming.stream, 8) == b"response"

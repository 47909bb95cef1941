"""Lasting streams whose far end, or whose application, refuses a part of them or lies."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.empty_pb2 import Empty

from outrelay.agent.resume.line import LINGER
from outrelay.lib.errors import ErrorCode, Reset, Why
from outrelay.lib.orp.frame import encode
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.tasks import beside
from tests.agent.place import SERVICE, Place
from tests.agent.resume import raw
from tests.agent.tcp import Backend
from tests.support.relay_peer import FEATURES, Link, read_all, read_exactly, reset_code
from tests.support.turns import everybody_waits, now
from tests.support.virtual_loop import elapsed

pytestmark = pytest.mark.virtual_time

MIB = 1 << 20


@pytest.mark.parametrize(
    ("taken", "final", "data", "reason"),
    [
        (1, None, b"", "byte 1 is acknowledged, byte 0 was the last"),
        (0, 3, b"four", "the peer sends on behind its end at byte 3"),
        (0, 5, b"four", "the peer ended at byte 5, byte 4 arrived last"),
    ],
)
async def test_a_peer_that_lies_is_reset(
    place: Place, taken: int, final: int | None, data: bytes, reason: str
) -> None:
    async with place.consumer(features=raw.RESUMES) as (agent, link):
        with await agent.app() as app:
            opened = await raw.opened(link)
            await raw.checkpoint(link, opened.stream_id, sent=final or 0, taken=taken, final=final)
            await everybody_waits()
            if data:
                await opened.stream.write(data)
                opened.stream.finish()
            assert await app.until_reset() in (b"", data)
            assert await reset_code(opened.stream) is ErrorCode.PROTOCOL
        await place.seen.wait("stream ended", reason=reason)


async def test_a_peer_that_has_unsent_what_arrived_is_reset(place: Place) -> None:
    async with place.consumer(features=raw.RESUMES) as (agent, link):
        with await agent.app() as app:
            opened = await raw.opened(link)
            await opened.stream.write(b"abc")
            assert await app.read(3) == b"abc"
            opened.stream.reset(ErrorCode.LEG_LOST)
            half, resume = await raw.offered(link, opened.stream_id)
            assert (resume.my_position, resume.peer_ack_position) == (0, 3)
            await raw.echo(half, sent=2)
            assert await reset_code(half) is ErrorCode.PROTOCOL
            await app.until_reset()
        await place.seen.wait("stream ended", reason="the peer has sent 2 bytes, 3 have arrived")


async def test_a_relay_that_answers_a_half_with_something_else_is_not_asked_again(
    place: Place,
) -> None:
    async with place.consumer(features=raw.RESUMES) as (agent, link):
        with await agent.app() as app:
            opened = await raw.opened(link)
            await everybody_waits()
            opened.stream.reset(ErrorCode.LEG_LOST)
            half, _ = await raw.offered(link, opened.stream_id)
            half.finish()  # which is no answer, and may be repaired
            half, _ = await raw.offered(link, opened.stream_id)
            await half.write(encode(FrameType.STREAM_ACCEPT, orp.StreamAccept()))
            await app.until_reset()
        await place.seen.wait("stream ended", reason="expected STREAM_RESUME, got STREAM_ACCEPT")


async def test_a_relay_that_resumes_nothing_is_no_way_to_go_on(place: Place) -> None:
    async with place.consumer(features=raw.RESUMES) as (agent, link):
        with await agent.app() as app:
            await raw.opened(link)
            await place.seen.wait("stream opened")
            link.connection.close()
            await place.relay.accept(FEATURES)
            await app.until_reset()
        await place.seen.wait("stream ended", why=Why.RELAY)


async def test_a_peer_that_cannot_resume_is_named_when_the_stream_is_lost(place: Place) -> None:
    async with place.consumer(features=raw.RESUMES) as (agent, link):
        with await agent.app() as app:
            opened = await link.spliced()
            await place.seen.wait("stream opened")
            opened.stream.reset(ErrorCode.LEG_LOST)
            assert await reset_code(opened.stream) is ErrorCode.NOT_RESUMABLE
            await app.until_reset()
        await place.seen.wait("stream ended", why=Why.PEER)


async def test_an_answer_is_whole_though_the_request_is_not_read(place: Place) -> None:
    """Whatever leg the answer comes over, the request is not sent again."""
    async with place.consumer(features=raw.RESUMES) as (agent, link):
        with await agent.app() as app:
            opened = await raw.opened(link)
            await app.send(b"request")
            assert await read_exactly(opened.stream, 7) == b"request"
            opened.stream.stop(ErrorCode.CANCELLED)
            await everybody_waits()
            await app.send(b" and more")
            await everybody_waits()
            opened.stream.reset(ErrorCode.LEG_LOST)
            half, _ = await raw.offered(link, opened.stream_id)
            await raw.echo(half)
            await half.write(b"answer")
            assert await app.read(6) == b"answer"
            assert await now(half.read()) is None
            await raw.checkpoint(link, opened.stream_id, sent=6, final=6)
            assert await app.read_all() == b""
            with pytest.raises(Reset) as reset:
                await read_exactly(half, 1)
            assert reset.value.code is ErrorCode.CANCELLED
        await place.seen.wait("stream ended", reason="reset from the far end (CANCELLED)")


async def test_a_request_is_whole_though_the_answer_is_not_read(place: Place) -> None:
    """Whatever leg the request goes over, the peer is told to send no more."""
    with Backend() as backend:
        async with place.provider(backend.port, features=raw.RESUMES) as (_, link):
            incoming = await raw.served(link, SERVICE)
            served = await backend.accept()
            await served.send(b"an answer before the request")
            served.end()
            served.sock.close()
            await everybody_waits()
            with pytest.raises(Reset):
                while True:  # until the closed socket answers with RST
                    await incoming.stream.write(b"nobody reads this")
                    await everybody_waits()
            link.connection.close()
            link = await place.relay.accept(raw.RESUMES)
            half, _ = await raw.offered(link, incoming.stream_id)
            assert elapsed() < 1  # the connection's loss is enough
            await raw.echo(half, sent=100)
            assert await read_exactly(half, 28) == b"an answer before the request"
            with pytest.raises(Reset):
                await half.wait_finished()
            await raw.checkpoint(link, incoming.stream_id, sent=100, taken=28)
            await place.seen.wait("stream ended", reason="backend: Broken pipe")


async def test_an_application_that_goes_while_there_is_no_leg_is_told_of_on_the_next(
    place: Place,
) -> None:
    with Backend() as backend:
        async with place.provider(backend.port, features=raw.RESUMES) as (_, link):
            incoming = await raw.served(link, SERVICE)
            served = await backend.accept()
            await served.send(b"bye")
            served.end()
            assert await read_exactly(incoming.stream, 3) == b"bye"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):  # of virtual time: until nothing takes any more
                    while True:
                        await incoming.stream.write(bytes(MIB))
            link.connection.close()
            await everybody_waits()
            served.sock.close()
            link = await place.relay.accept(raw.RESUMES)
            half, resume = await raw.offered(link, incoming.stream_id)
            await raw.echo(half, sent=resume.peer_ack_position)
            with pytest.raises(Reset):
                while True:
                    await half.write(b"nobody reads this")
                    await everybody_waits()
            await raw.checkpoint(link, incoming.stream_id, sent=1 << 30, taken=3)
            await place.seen.wait("stream ended", reason="backend: Broken pipe")


async def test_a_leg_with_nothing_left_to_read_or_write_is_not_trusted_for_ever(
    place: Place,
) -> None:
    with Backend() as backend:
        async with place.provider(backend.port, features=raw.RESUMES) as (_, link):
            incoming = await raw.served(link, SERVICE)
            served = await backend.accept()
            await served.send(b"bye")
            served.end()
            served.sock.close()
            async with beside(_pongs(link), name="pongs"):
                with pytest.raises(Reset):
                    while True:
                        await incoming.stream.write(b"nobody reads this")
                        await everybody_waits()
                half, _ = await raw.offered(link, incoming.stream_id)
                assert elapsed() == pytest.approx(LINGER, abs=0.1)
                await raw.echo(half, sent=100)
                await raw.checkpoint(link, incoming.stream_id, sent=100, taken=3)
                await place.seen.wait("stream ended", reason="backend: Broken pipe")


async def _pongs(link: Link) -> None:
    """Answer PINGs, and leave the rest unread."""
    while frame := await link.frame():
        if frame.type == FrameType.PING:
            await link.send(FrameType.PONG, Empty())


@pytest.mark.parametrize("direction", ["ours", "the peer's"])
async def test_a_reset_of_what_is_done_is_no_failure(place: Place, direction: str) -> None:
    async with place.consumer(features=raw.RESUMES) as (agent, link):
        with await agent.app() as app:
            opened = await raw.opened(link)
            await raw.checkpoint(link, opened.stream_id, sent=0, final=0)
            assert await app.read_all() == b""
            await app.send(b"request")
            app.end()
            assert await read_exactly(opened.stream, 7) == b"request"
            await raw.checkpoint(link, opened.stream_id, sent=0, taken=7, final=0)
            await everybody_waits()
            if direction == "ours":
                opened.stream.stop(ErrorCode.CANCELLED)
            else:
                opened.stream.reset(ErrorCode.CANCELLED)
        await place.seen.wait("stream ended", reason="finished")


async def test_a_peer_that_never_comes_back_is_not_missed_at_the_end(place: Place) -> None:
    async with place.consumer(features=raw.RESUMES) as (agent, link):
        with await agent.app() as app:
            opened = await raw.opened(link)
            await raw.checkpoint(link, opened.stream_id, sent=0, final=0)
            assert await app.read_all() == b""
            app.end()
            await raw.checkpoint(link, opened.stream_id, sent=0, final=0)
            assert await read_all(opened.stream) == b""
            await raw.checkpoint(link, opened.stream_id, sent=0, final=0)
            await everybody_waits()
            opened.stream.reset(ErrorCode.LEG_LOST)
            await raw.offered(link, opened.stream_id)
            await place.seen.wait("stream ended", reason="finished")
            assert elapsed() == pytest.approx(LINGER, abs=0.1)


@pytest.mark.parametrize("has_leg", [True, False])
async def test_an_agent_that_stops_waits_for_nothing_that_nobody_lacks(
    place: Place, has_leg: bool
) -> None:
    async with place.consumer(features=raw.RESUMES) as (agent, link):
        with await agent.app() as app:
            opened = await raw.opened(link)
            await raw.checkpoint(link, opened.stream_id, final=0)
            assert await app.read_all() == b""
            app.end()
            assert await read_all(opened.stream) == b""
            await raw.checkpoint(link, opened.stream_id, final=0)
            await everybody_waits()
            if not has_leg:
                opened.stream.reset(ErrorCode.LEG_LOST)
                await raw.offered(link, opened.stream_id)
            agent.stop.set()
            await agent.ended()
        assert elapsed() < 1
        assert place.seen.of("stream ended", reason="finished")
        assert not place.seen.of("streams cut off")


async def test_an_agent_that_stops_waits_while_its_peer_may_lack_the_end(place: Place) -> None:
    async with place.consumer(features=raw.RESUMES) as (agent, link):
        with await agent.app() as app:
            opened = await raw.opened(link)
            await raw.checkpoint(link, opened.stream_id, final=0)
            assert await app.read_all() == b""
            app.end()
            assert await read_all(opened.stream) == b""
            agent.stop.set()
            await asyncio.sleep(2)  # of virtual time
            assert not place.seen.of("stream ended")
            await raw.checkpoint(link, opened.stream_id, final=0)
            await agent.ended()
        assert elapsed() < 3
        assert place.seen.of("stream ended", reason="finished")

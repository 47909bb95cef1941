"""Ends that were lost: whoever misses one gets it said again, when its relay calls us."""

from __future__ import annotations

import pytest

from outrelay.agent.resume import finished
from outrelay.lib.errors import ErrorCode
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.transport.memory import MemoryConnection
from tests.agent.place import SERVICE, Place
from tests.agent.resume import raw
from tests.agent.tcp import Backend
from tests.support.relay_peer import Link, read_all, read_exactly, reset_code
from tests.support.turns import everybody_waits

pytestmark = pytest.mark.virtual_time


async def ended(place: Place, link: Link, backend: Backend) -> int:
    """A stream that has ended well for the provider's agent: 7 bytes up, 6 down; its id."""
    incoming = await raw.served(link, SERVICE)
    served = await backend.accept()
    with served:
        await incoming.stream.write(b"request")
        incoming.stream.finish()
        assert await served.read_all() == b"request"
        await served.send(b"answer")
        served.end()
        assert await read_exactly(incoming.stream, 6) == b"answer"
        await raw.checkpoint(link, incoming.stream_id, sent=7, taken=6, final=7)
        assert await read_all(incoming.stream) == b""
        await raw.checkpoint(link, incoming.stream_id, sent=7, taken=6, final=7)
        await place.seen.wait("stream ended", reason="finished")
    return incoming.stream_id


async def call(link: Link, stream_id: int) -> None:
    """Say that the far agent waits for its stream."""
    await link.send(
        FrameType.STREAM_ENDED, orp.StreamEnded(stream_id=stream_id, code=ErrorCode.LEG_LOST)
    )


def lose(link: Link) -> None:
    """Lose the agent's path."""
    assert isinstance(link.connection, MemoryConnection)
    link.connection.sever()


async def offered(link: Link, stream_id: int) -> Stream:
    """The half that the agent offers for an ended stream."""
    half, resume = await raw.offered(link, stream_id)
    assert (resume.my_position, resume.peer_ack_position) == (6, 7)
    return half


async def test_an_end_is_said_again_to_who_has_missed_it(place: Place) -> None:
    with Backend() as backend:
        async with place.provider(backend.port, features=raw.RESUMES) as (_, link):
            stream_id = await ended(place, link, backend)
            for _ in range(2):  # the answer may be lost again
                await call(link, stream_id)
                half = await offered(link, stream_id)
                await raw.echo(half, sent=7, taken=6)
                assert await read_all(half) == b""
                half.finish()
                await half.wait_finished()
            await place.seen.wait("end said again", count=2)


async def test_whoever_lacks_more_than_the_end_gets_a_reset(place: Place) -> None:
    with Backend() as backend:
        async with place.provider(backend.port, features=raw.RESUMES) as (_, link):
            stream_id = await ended(place, link, backend)
            await call(link, stream_id)
            half = await offered(link, stream_id)
            await raw.echo(half, sent=7, taken=5)
            assert await reset_code(half) is ErrorCode.NOT_RESUMABLE
            await place.seen.wait("end not said again")


async def test_a_provider_that_keeps_a_stream_its_consumer_has_given_up_is_told(
    place: Place,
) -> None:
    async with place.consumer(features=raw.RESUMES) as (agent, link):
        with await agent.app():
            lost = await link.opened()
            lose(link)
            link = await place.relay.accept(raw.RESUMES)
            opened = await raw.opened(link)
            assert opened.stream_id != lost.stream_id
            await call(link, lost.stream_id)
            half, resume = await raw.offered(link, lost.stream_id)
            assert resume.role == orp.Role.CONSUMER
            await raw.echo(half)
            assert await reset_code(half) is ErrorCode.CANCELLED


async def test_a_reset_that_had_no_way_is_said_again(place: Place) -> None:
    with Backend() as backend:
        async with place.provider(backend.port, features=raw.RESUMES) as (_, link):
            incoming = await raw.served(link, SERVICE)
            with await backend.accept() as served:
                await incoming.stream.write(b"request")
                assert await served.read(7) == b"request"
                lose(link)
                link = await place.relay.accept(raw.RESUMES)
                half, _ = await raw.offered(link, incoming.stream_id)
                served.reset()
            await place.seen.wait("stream ended")
            assert await reset_code(half) is ErrorCode.CANCELLED  # before there was a way
            await call(link, incoming.stream_id)
            half, resume = await raw.offered(link, incoming.stream_id)
            assert (resume.my_position, resume.peer_ack_position) == (0, 7)
            await raw.echo(half, sent=7)
            assert await reset_code(half) is ErrorCode.CANCELLED
            await place.seen.wait("end said again")


async def test_of_a_stream_that_is_unknown_or_forgotten_nothing_is_said(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished, "MOST", 1)
    with Backend() as backend:
        async with place.provider(backend.port, features=raw.RESUMES) as (_, link):
            ids = [await ended(place, link, backend) for _ in range(2)]
            await call(link, 1 << 40)
            await call(link, ids[0])
            await everybody_waits()
            await call(link, ids[1])
            await offered(link, ids[1])  # the first half there is

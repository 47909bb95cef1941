"""Codes of ends on carriers without codes: they come and go as STREAM_ENDED."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from outrelay.lib.errors import Closed, ErrorCode
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.memory import MemoryConnection
from outrelay.lib.transport.tcp import yamux
from outrelay.lib.transport.tcp.dialer import TcpDialer
from outrelay.lib.transport.tcp.listener import TcpListener
from tests.agent.place import AGENT, OPTIONS, SERVICE, Agent, Place
from tests.agent.resume import raw
from tests.support.pki import TestPki
from tests.support.relay_peer import Link, RelayPeer, read_all, reset_code


@asynccontextmanager
async def over_plain_tcp(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Agent, Link]]:
    """A consumer that has reached its relay over tcp, where neither side takes notes."""
    monkeypatch.setattr(yamux, "HELLO", None)  # nobody's ping is taken for it
    pki = TestPki()
    listener = await TcpListener.bind(("127.0.0.1", 0), credentials=pki.relay(), trust=pki.trust)
    dialer = TcpDialer(credentials=pki.issue(AGENT), trust=pki.trust)
    options = replace(OPTIONS, relays=(), relays_tcp=(listener.address,), drain=0.0)
    try:
        async with place.agent(consume=[SERVICE], options=options, tcp=dialer) as agent:
            link = await RelayPeer(listener).accept(raw.RESUMES)
            await place.seen.wait("connected")
            assert not link.connection.tells_codes
            yield agent, link
    finally:
        await dialer.close()
        await listener.close()


async def ended(link: Link) -> orp.StreamEnded:
    """What the agent says of an end; checkpoints and PINGs before it are dropped."""
    while frame := await link.frame():
        if frame.type == FrameType.STREAM_ENDED:
            return orp.StreamEnded.FromString(frame.payload)
        assert frame.type in (FrameType.STREAM_CHECKPOINT, FrameType.PING)
    raise AssertionError("the control stream has ended")


async def test_what_the_relay_says_of_an_end_counts(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with over_plain_tcp(place, monkeypatch) as (agent, link):
        with await agent.app() as app:
            opened = await raw.opened(link)
            await place.seen.wait("stream opened")
            carrier = opened.stream
            for code in (ErrorCode.LEG_LOST, ErrorCode.DRAIN, ErrorCode.EXPIRED):
                frame = orp.StreamEnded(stream_id=opened.stream_id, code=code)
                await link.send(FrameType.STREAM_ENDED, frame)
                carrier.reset(code)
                carrier, _ = await raw.offered(link, opened.stream_id)
            denied = orp.StreamEnded(stream_id=opened.stream_id, code=ErrorCode.DENIED)
            await link.send(FrameType.STREAM_ENDED, denied)
            carrier.reset(ErrorCode.DENIED)
            await app.until_reset()
        await place.seen.wait("stream ended", reason="reset from the far end (DENIED)")


async def test_what_the_relay_says_of_others_ends_is_nothing_to_this_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with over_plain_tcp(place, monkeypatch) as (agent, link):
        with await agent.app() as app:
            opened = await raw.opened(link)
            await place.seen.wait("stream opened")
            frame = orp.StreamEnded(stream_id=opened.stream_id ^ 1, code=ErrorCode.LEG_LOST)
            await link.send(FrameType.STREAM_ENDED, frame)
            opened.stream.reset(ErrorCode.LEG_LOST)
            await app.until_reset()
        await place.seen.wait("stream ended", reason="reset from the far end (CANCELLED)")


async def test_the_relay_is_told_how_the_agent_ends_a_stream(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with over_plain_tcp(place, monkeypatch) as (agent, link):
        with await agent.app() as app:
            opened = await raw.opened(link)
            await place.seen.wait("stream opened")
            agent.stop.set()
            told = await ended(link)
            assert told == orp.StreamEnded(stream_id=opened.stream_id, code=ErrorCode.DRAIN)
            opened.stream.explain(ErrorCode.of(told.code))
            assert await reset_code(opened.stream) is ErrorCode.DRAIN
            await app.until_reset()


@pytest.mark.virtual_time
async def test_a_clean_end_is_not_spoken_of(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryConnection, "tells_codes", False)
    async with place.consumer(features=raw.RESUMES) as (agent, link):
        with await agent.app() as app:
            opened = await raw.opened(link)
            app.end()
            assert await read_all(opened.stream) == b""
            opened.stream.finish()
            assert await app.read_all() == b""
        await place.seen.wait("stream ended", reason="finished")
        with await agent.app() as app:
            opened = await raw.opened(link)
            await place.seen.wait("stream opened", count=2)
            app.reset()
            assert (await ended(link)).stream_id == opened.stream_id
            assert await reset_code(opened.stream) is ErrorCode.CANCELLED


async def test_a_relay_that_knows_no_such_frame_gets_none(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryConnection, "tells_codes", False)
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.spliced()
            await place.seen.wait("stream opened")
            app.reset()
            assert await reset_code(opened.stream) is ErrorCode.CANCELLED
        agent.stop.set()
        with pytest.raises(Closed):
            await link.frame()

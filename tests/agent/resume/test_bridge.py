"""Streams that outlive their legs: what applications at both ends get, whatever is lost."""

from __future__ import annotations

import asyncio
import random
from asyncio import TaskGroup
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from outrelay.agent.options import Limits
from outrelay.lib.errors import ErrorCode, Why
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.resume import ring
from tests.agent.place import OPTIONS
from tests.agent.resume.pairing import CONSUMER, PROVIDER, Meeting, PairingRelay, meeting
from tests.agent.tcp import Tcp, connect
from tests.support.events import Events
from tests.support.turns import everybody_waits

pytestmark = pytest.mark.both_loops

MIB = 1 << 20


async def cut_consumer(meet: Meeting) -> None:
    await meet.relay.cut(CONSUMER)


async def cut_provider(meet: Meeting) -> None:
    await meet.relay.cut(PROVIDER)


async def cut_both(meet: Meeting) -> None:
    await meet.relay.cut(CONSUMER)
    await meet.relay.cut(PROVIDER)


async def drop_legs(meet: Meeting) -> None:
    for each in [*meet.relay.splices.values()]:
        each.abandon(ErrorCode.LEG_LOST, "dropped")


async def restart(meet: Meeting) -> None:
    await meet.relay.stop()
    meet.relay.listen()


FAULTS: list[Callable[[Meeting], Awaitable[None]]] = [
    cut_consumer, cut_provider, cut_both, drop_legs, restart,
]  # fmt: skip


async def transfer(source: Tcp, sink: Tcp, data: bytes) -> None:
    """Send ``data`` and its end; it must arrive as it is."""
    async with TaskGroup() as group:
        reading = group.create_task(sink.read_all())
        await source.send(data)
        source.end()
    assert reading.result() == data


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_stream_goes_on_after(
    seen: Events, fault: Callable[[Meeting], Awaitable[None]]
) -> None:
    async with meeting(seen) as meet:
        app, backend = await meet.stream()
        with app, backend:
            for words in (b"one", b"two", b"three"):
                await app.send(words)
                assert await backend.read(len(words)) == words
                await fault(meet)
                await backend.send(words)
                assert await app.read(len(words)) == words
            app.end()
            assert await backend.read_all() == b""
            await fault(meet)
            await backend.send(b"still here")
            backend.end()
            assert await app.read_all() == b"still here"
        await seen.wait("stream ended", count=2, reason="finished", bytes_up=11, bytes_down=21)
        assert meet.relay.resumed


@pytest.mark.parametrize(("method", "name"), [("", "db"), ("read", "db/read")])
async def test_both_agents_say_what_the_stream_leads_to(
    seen: Events, method: str, name: str
) -> None:
    async with meeting(seen, method=method) as meet:
        app, backend = await meet.stream()
        await seen.wait("stream opened", count=2)
        with app, backend:
            await cut_both(meet)
            await seen.wait("stream resumed", count=2)
            await transfer(app, backend, b"the same")
        assert meet.relay.names == {name}


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(20))
async def test_bytes_are_whole_whatever_is_lost_when(seen: Events, seed: int) -> None:
    chance = random.Random(seed)
    async with meeting(seen) as meet:
        ends = [await meet.stream() for _ in range(4)]
        await seen.wait("stream opened", count=8)
        async with TaskGroup() as group:
            for app, backend in ends:
                up, down = (chance.randbytes(chance.randrange(3 * MIB)) for _ in range(2))
                group.create_task(transfer(app, backend, up))
                group.create_task(transfer(backend, app, down))
            for _ in range(25):
                await everybody_waits(chance.randrange(60))
                await asyncio.sleep(chance.choice([0, 0, 0, 0.01, 0.11, 0.3]))
                await chance.choice(FAULTS)(meet)
        for app, backend in ends:
            app.sock.close()
            backend.sock.close()
        await seen.wait("stream ended", count=8, reason="finished")


@pytest.mark.virtual_time
async def test_a_half_close_is_a_fin_at_once_and_told_once(seen: Events) -> None:
    async with meeting(seen) as meet:
        app, backend = await meet.stream()
        await seen.wait("stream opened", count=2)
        (splice,) = meet.relay.splices.values()
        with app, backend:
            backend.end()
            assert await app.read_all() == b""
            await splice.down.sink.stream.wait_finished()  # it was passed on as what it is
            app.end()
            assert await backend.read_all() == b""
        await seen.wait("stream ended", count=2, reason="finished")
        assert not meet.relay.resumed
        said = meet.relay.said
        assert [end for who, end in said if who == PROVIDER] == [None, 0, 0]
        assert [end for who, end in said if who == CONSUMER] == [None, None, 0]  # one answers a FIN


@pytest.mark.virtual_time
async def test_two_ends_in_the_same_moment_cost_no_byte(seen: Events) -> None:
    """Both FINs cross, and the relay is lost before anybody has acknowledged anything."""
    async with meeting(seen) as meet:
        app, backend = await meet.stream()
        await seen.wait("stream opened", count=2)
        await everybody_waits()  # until each has heard of the other
        with app, backend:
            for each in (app, backend):
                await each.send(bytes(100_000))
                each.end()
            meet.relay.deaf = True
            await seen.wait("stream resumed", count=2)
            meet.relay.deaf = False
            for each in (app, backend):
                assert await each.read_all() == bytes(100_000)
        await seen.wait("stream ended", count=2, reason="finished")


async def test_a_provider_keeps_what_its_consumer_may_come_for(seen: Events) -> None:
    """The provider's connection goes before its STREAM_READY, the consumer has got its own."""
    async with meeting(seen) as meet:
        meet.relay.cuts_before_ready = True
        app, backend = await meet.stream()
        with app, backend:
            await app.send(b"early")
            await seen.wait("stream resumed", count=2)
            assert await backend.read(5) == b"early"
            await transfer(backend, app, b"answer")
        await seen.wait("stream lost before it was ready")
        await seen.wait("stream ended", count=2, reason="finished")


@pytest.mark.virtual_time
async def test_a_stream_that_nobody_comes_for_is_given_up(seen: Events) -> None:
    async with meeting(seen) as meet:
        meet.relay.cuts_before_ready = True
        app, backend = await meet.stream()
        with backend:
            app.reset()
            assert await backend.until_reset() == b""


@pytest.mark.parametrize("code", [ErrorCode.LEG_LOST, ErrorCode.DRAIN])
async def test_an_open_that_was_lost_is_tried_again(seen: Events, code: ErrorCode) -> None:
    async with meeting(seen) as meet:
        meet.relay.loses_opens = [code, code]
        app, backend = await meet.stream()
        with app, backend:
            await transfer(app, backend, b"at last")
        assert not seen.of("open refused")


@pytest.mark.virtual_time
async def test_an_open_is_not_tried_for_ever(seen: Events) -> None:
    async with meeting(seen) as meet:
        meet.relay.loses_opens = [ErrorCode.LEG_LOST] * 1000
        with await connect(meet.port) as app:
            assert await app.until_reset() == b""
        line = await seen.wait("open refused")
        assert (line["code"], line["reason"]) == (502, "relay: stream reset (LEG_LOST)")


@pytest.mark.parametrize(
    ("code", "why"),
    [(403, Why.POLICY), (409, Why.REFUSED), (400, Why.REFUSED)],
)
async def test_a_half_that_is_refused_ends_the_stream(seen: Events, code: int, why: Why) -> None:
    async with meeting(seen) as meet:
        app, backend = await meet.stream()
        await seen.wait("stream opened", count=2)
        with app, backend:
            meet.relay.refuses = orp.StreamReject(code=code, reason="no more")
            await drop_legs(meet)
            assert await app.until_reset() == b""
            assert await backend.until_reset() == b""
        reason = f"the relay refused: {code} no more"
        await seen.wait("stream ended", count=2, reason=reason, why=why)


async def test_a_half_that_the_relay_cannot_take_now_is_offered_again(seen: Events) -> None:
    async with meeting(seen) as meet:
        app, backend = await meet.stream()
        await seen.wait("stream opened", count=2)
        with app, backend:
            meet.relay.refuses = orp.StreamReject(code=429, reason="too many wait")
            await drop_legs(meet)
            await meet.relay.turned_away.acquire()
            await meet.relay.turned_away.acquire()
            meet.relay.refuses, meet.relay.ends = None, ErrorCode.EXPIRED
            await meet.relay.turned_away.acquire()
            meet.relay.ends = None
            await transfer(app, backend, b"patience")


async def test_a_stream_that_nobody_resumes_is_given_up(seen: Events) -> None:
    options = replace(OPTIONS, limits=Limits(resume=0.3))
    async with meeting(seen, options) as meet:
        app, backend = await meet.stream()
        await seen.wait("stream opened", count=2)
        with app, backend:
            meet.relay.ends = ErrorCode.EXPIRED
            await drop_legs(meet)
            assert await app.until_reset() == b""
            assert await backend.until_reset() == b""
        reason = "not resumed within 0.3 s: stream reset (EXPIRED)"
        await seen.wait("stream ended", count=2, reason=reason, why=Why.WINDOW)


async def test_a_silent_relay_is_left(seen: Events) -> None:
    async with meeting(seen, replace(OPTIONS, limits=Limits(dead=2.0))) as meet:
        app, backend = await meet.stream()
        with app, backend:
            await app.send(b"hello")
            assert await backend.read(5) == b"hello"
            meet.relay.mute = True
            await seen.wait("disconnected")
            meet.relay.mute = False
            await transfer(app, backend, b"again")
        line = await seen.wait("disconnected")
        assert line["reason"] == "connection lost: the relay did not answer within 2 s"


async def test_a_stream_of_a_relay_that_cannot_resume_ends_with_its_leg(seen: Events) -> None:
    async with meeting(seen, features=("deregister/1",)) as meet:
        app, backend = await meet.stream()
        await seen.wait("stream opened", count=2)
        with app, backend:
            await drop_legs(meet)
            assert await app.until_reset() == b""
            assert await backend.until_reset() == b""
        await seen.wait("stream ended", count=2, why=Why.RELAY)


@pytest.mark.virtual_time
async def test_an_end_that_is_lost_is_told_again(seen: Events) -> None:
    """All bytes are acknowledged long before the end, of which the peer does not learn."""
    async with meeting(seen) as meet:
        app, backend = await meet.stream()
        await seen.wait("stream opened", count=2)
        with app, backend:
            await app.send(b"all")
            assert await backend.read(3) == b"all"
            backend.end()
            assert await app.read_all() == b""
            await asyncio.sleep(1)  # of virtual time
            (splice,) = meet.relay.splices.values()
            splice.up.sink.stream.finish = lambda: None  # type: ignore[method-assign]
            meet.relay.deaf = True
            app.end()
            await asyncio.sleep(0.2)
            meet.relay.deaf = False
            await meet.relay.cut(PROVIDER)
            assert await backend.read_all() == b""
        await seen.wait("stream ended", count=2, reason="finished")


@pytest.mark.virtual_time
async def test_bytes_that_are_gone_end_the_stream_for_both(seen: Events) -> None:
    """An agent asks for what it has acknowledged before."""
    async with meeting(seen) as meet:
        app, backend = await meet.stream()
        await seen.wait("stream opened", count=2)
        with app, backend:
            await app.send(b"x" * 100)
            assert len(await backend.read(100)) == 100
            await asyncio.sleep(1)  # of virtual time, after which it is acknowledged
            meet.relay.forgets = True
            await drop_legs(meet)
            assert await app.until_reset() == b""
            assert await backend.until_reset() == b""
        await seen.wait("stream ended", count=2, why=Why.GONE)


@pytest.mark.parametrize("who", ["application", "backend"])
async def test_a_reset_passes_a_resumed_stream(seen: Events, who: str) -> None:
    async with meeting(seen) as meet:
        app, backend = await meet.stream()
        await seen.wait("stream opened", count=2)
        with app, backend:
            await drop_legs(meet)
            await seen.wait("stream resumed", count=2)
            near, far = (app, backend) if who == "application" else (backend, app)
            await near.send(b"half a requ")
            assert await far.read(11) == b"half a requ"
            near.reset()
            assert await far.until_reset() == b""
        await seen.wait("stream ended", reason=f"{who}: Connection reset by peer")
        await seen.wait("stream ended", reason="reset from the far end (CANCELLED)")


async def test_a_writer_waits_while_nobody_reads_and_no_byte_is_dropped(seen: Events) -> None:
    options = replace(OPTIONS, ring_max=256 << 10, ring_total=512 << 10)
    async with meeting(seen, options) as meet:
        app, backend = await meet.stream()
        with app, backend:
            async with TaskGroup() as group:
                group.create_task(app.send(bytes(12 * MIB)))
                await everybody_waits()
                await drop_legs(meet)
                await everybody_waits()
                assert len(await backend.read(12 * MIB)) == 12 * MIB
            app.end()
            assert await backend.read_all() == b""


async def test_streams_share_a_budget_and_wait_for_it(
    seen: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that nobody reads has all of it: another one waits, and loses nothing."""
    monkeypatch.setattr(ring, "LITTLE", 0)
    options = replace(OPTIONS, ring_max=256 << 10, ring_total=256 << 10)
    async with meeting(seen, options) as meet:
        first, second = [await meet.stream() for _ in range(2)]
        with first[0], first[1], second[0], second[1]:
            async with TaskGroup() as group:
                group.create_task(first[0].send(bytes(12 * MIB)))
                await everybody_waits()
                group.create_task(second[0].send(b"waits"))
                reading = group.create_task(second[1].read(5))
                await everybody_waits()
                assert not reading.done()
                assert len(await first[1].read(12 * MIB)) == 12 * MIB
            assert reading.result() == b"waits"


async def test_streams_that_nobody_reads_leave_the_others_some_of_the_budget(seen: Events) -> None:
    options = replace(OPTIONS, ring_max=512 << 10, ring_total=512 << 10)
    async with meeting(seen, options) as meet:
        first, second = [await meet.stream() for _ in range(2)]
        with first[0], first[1], second[0], second[1]:
            async with TaskGroup() as group:
                group.create_task(first[0].send(bytes(12 * MIB)))
                await everybody_waits()
                await transfer(*second, bytes(256 << 10))
                assert len(await first[1].read(12 * MIB)) == 12 * MIB


@pytest.mark.virtual_time
async def test_streams_climb_from_tcp_to_quic(seen: Events) -> None:
    over_tcp = ("127.0.0.2", 7443)
    options = replace(OPTIONS, relays_tcp=(over_tcp,))
    async with meeting(seen, options, host=over_tcp[0]) as meet:
        app, backend = await meet.stream()
        await seen.wait("stream opened", count=2)
        other = PairingRelay(meet.network, meet.group)
        other.listen()
        with app, backend:
            await seen.wait("quic gets through, new streams take it", count=2)
            await seen.wait("stream resumed", count=2)
            assert not seen.of("disconnected")
            await transfer(app, backend, b"moved")
        assert not meet.relay.agents
        await other.stop()


@pytest.mark.virtual_time
async def test_whoever_does_not_meet_the_provider_looks_for_it_elsewhere(seen: Events) -> None:
    options = replace(OPTIONS, relays=(("127.0.0.1", 7443), ("127.0.0.2", 7443)))
    async with meeting(seen, options) as meet:
        app, backend = await meet.stream()
        await seen.wait("stream opened", count=2)
        other = PairingRelay(meet.network, meet.group, host="127.0.0.2")
        with app, backend:
            meet.relay.ends = ErrorCode.EXPIRED
            other.listen()
            await drop_legs(meet)
            await meet.relay.cut(PROVIDER)
            await seen.wait("the far agent is not at this relay")
            await meet.relay.stop()
            await transfer(app, backend, b"found")
        await other.stop()


async def test_a_relay_that_leaves_is_left_first(seen: Events) -> None:
    async with meeting(seen) as meet:
        app, backend = await meet.stream()
        await seen.wait("stream opened", count=2)
        other = PairingRelay(meet.network, meet.group, host="127.0.0.2")
        other.listen()
        with app, backend:
            await meet.relay.goaway("127.0.0.2:7443", "nonsense")
            await seen.wait("stream resumed", count=2)
            assert not seen.of("disconnected")
            assert not meet.relay.agents
            await transfer(app, backend, b"moved")
        await other.stop()

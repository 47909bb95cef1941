"""The splice: bytes and ends pass as they are, and nothing is left when a leg is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from outrelay.lib.errors import Closed, ErrorCode, Reset
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.tasks import beside
from outrelay.lib.transport.carrier import WRITE_BUFFER, Stream
from outrelay.lib.transport.memory import MemoryConnection, MemoryNetwork
from outrelay.lib.transport.pipe import WINDOW
from outrelay.relay.splice import CONSUMER, PROVIDER, Ending, Leg, Splice
from tests.relay.rooms import RELAY
from tests.support.peers import AGENT_A, AGENT_B, read_all
from tests.support.turns import everybody_waits, until

pytestmark = pytest.mark.both_loops


@dataclass(kw_only=True)
class Line:
    """A splice between two agents' streams."""

    splice: Splice
    run: asyncio.Task[Ending]
    consumer: MemoryConnection
    provider: MemoryConnection
    near: Stream
    far: Stream
    passed: list[int]


@asynccontextmanager
async def spliced(
    *, early_up: bytes = b"", early_down: bytes = b"", owner: str = CONSUMER
) -> AsyncIterator[Line]:
    network = MemoryNetwork()
    listener = network.listen(("127.0.0.1", 0), RELAY)

    async def leg(identity: Identity) -> tuple[MemoryConnection, Stream, Stream]:
        connection = await network.dialer(identity).dial(listener.address, roles={Role.RELAY})
        theirs = await listener.accept()
        stream = await connection.open_stream()
        await stream.write(b"!")
        at_relay = await theirs.accept_stream()
        assert await at_relay.read(1) == b"!"
        return connection, stream, at_relay

    consumer, near, near_leg = await leg(AGENT_A)
    provider, far, far_leg = await leg(AGENT_B)
    passed: list[int] = []
    splice = Splice(
        Leg(near_leg, CONSUMER, early_up),
        Leg(far_leg, PROVIDER, early_down),
        passed.append,
        passed.append,
    )
    async with beside(splice.run(owner), name="splice under test") as run:
        yield Line(
            splice=splice,
            run=run,
            consumer=consumer,
            provider=provider,
            near=near,
            far=far,
            passed=passed,
        )
    await listener.close()


async def test_bytes_pass_both_ways_and_are_counted() -> None:
    async with spliced() as line:
        await line.near.write(b"question")
        assert await line.far.read() == b"question"
        await line.far.write(b"answer!")
        assert await line.near.read() == b"answer!"
        line.near.finish()
        assert await line.far.read() == b""
        line.far.finish()
        assert await line.near.read() == b""

        assert await line.run == Ending(ErrorCode.NONE, "finished")
        assert (line.splice.up.bytes, line.splice.down.bytes) == (8, 7)
        assert sorted(line.passed) == [7, 8]


async def test_what_came_before_the_splice_passes_first() -> None:
    async with spliced(early_up=b"early up,", early_down=b"early down,") as line:
        await line.near.write(b"late")
        line.near.finish()
        await line.far.write(b"late")
        line.far.finish()

        assert await read_all(line.far) == b"early up,late"
        assert await read_all(line.near) == b"early down,late"
        assert (await line.run).code is ErrorCode.NONE


@pytest.mark.parametrize("first", ["near", "far"])
async def test_one_direction_ends_and_the_other_goes_on(first: str) -> None:
    async with spliced() as line:
        ended, other = (line.near, line.far) if first == "near" else (line.far, line.near)
        ended.finish()
        assert await other.read() == b""

        for part in (b"still", b"here"):
            await other.write(part)
            assert await ended.read() == part
        other.finish()
        assert await ended.read() == b""
        assert (await line.run).code is ErrorCode.NONE


async def test_a_reader_that_stops_stops_the_writer() -> None:
    async with spliced() as line:
        sent = 0

        async def send() -> None:
            nonlocal sent
            while True:
                await line.near.write(bytes(64 * 1024))
                sent += 64 * 1024

        async with beside(send(), name="sender"):
            held = 2 * (WINDOW + WRITE_BUFFER)  # in two streams, and one chunk in the splice
            await until(lambda: sent >= held)
            await everybody_waits()
            assert sent <= held + 256 * 1024

            await line.far.write(b"the other way is free")
            assert await line.near.read() == b"the other way is free"


@pytest.mark.parametrize("code", [ErrorCode.CANCELLED, ErrorCode.LIMIT])
async def test_a_reset_passes_with_its_code_and_the_other_way_goes_on(code: ErrorCode) -> None:
    async with spliced() as line:
        line.near.reset(code)
        with pytest.raises(Reset) as caught:
            await read_all(line.far)
        assert caught.value.code is code

        await line.far.write(b"to the end")
        line.far.finish()
        assert await read_all(line.near) == b"to the end"
        assert await line.run == Ending(code, "reset by the consumer")


async def test_a_stop_passes_with_its_code_while_the_source_is_silent() -> None:
    async with spliced() as line:
        line.near.stop(ErrorCode.LIMIT)
        with pytest.raises(Reset) as caught:
            await line.far.wait_finished()
        assert caught.value.code is ErrorCode.LIMIT

        line.near.finish()
        assert await line.far.read() == b""
        assert await line.run == Ending(ErrorCode.LIMIT, "no longer read by the consumer")


async def test_a_stop_frees_a_sink_that_is_full() -> None:
    async with spliced() as line:
        async with beside(_stop_when_full(line), name="stop"):
            with pytest.raises(Reset) as caught:
                while True:
                    await line.near.write(bytes(64 * 1024))
        assert caught.value.code is ErrorCode.CANCELLED

        line.far.finish()
        assert await line.near.read() == b""
        assert await line.run == Ending(ErrorCode.CANCELLED, "no longer read by the provider")


async def _stop_when_full(line: Line) -> None:
    await until(lambda: line.near.unsent > 0)
    line.far.stop(ErrorCode.CANCELLED)


@pytest.mark.parametrize("lost", ["consumer", "provider"])
async def test_a_lost_leg_ends_the_other_both_ways(lost: str) -> None:
    async with spliced() as line:
        gone, stays = (
            (line.consumer, line.far) if lost == "consumer" else (line.provider, line.near)
        )
        gone.sever()

        for ending in (stays.read(), stays.wait_finished()):
            with pytest.raises(Reset) as caught:
                await ending
            assert caught.value.code is ErrorCode.LEG_LOST
        assert await line.run == Ending(ErrorCode.LEG_LOST, f"the {lost}'s connection is gone")


@pytest.mark.parametrize("lost", ["consumer", "provider"])
async def test_a_lost_leg_is_no_end_after_a_half_close(lost: str) -> None:
    async with spliced() as line:
        line.near.finish()
        assert await line.far.read() == b""
        (line.consumer if lost == "consumer" else line.provider).sever()

        stays = line.far.wait_finished() if lost == "consumer" else line.near.read()
        with pytest.raises(Reset) as caught:
            await stays
        assert caught.value.code is ErrorCode.LEG_LOST


async def test_a_consumer_lost_after_the_provider_has_ended() -> None:
    async with spliced() as line:
        line.far.finish()
        assert await line.near.read() == b""
        await line.near.write(b"half of the upl")
        assert await line.far.read() == b"half of the upl"
        line.consumer.sever()

        with pytest.raises(Reset) as caught:
            await line.far.read()
        assert caught.value.code is ErrorCode.LEG_LOST
        assert await line.run == Ending(ErrorCode.LEG_LOST, "the consumer's connection is gone")


async def test_a_sink_that_is_lost_while_full_ends_the_source() -> None:
    async with spliced() as line:
        async with beside(_sever_when_full(line), name="sever"):
            with pytest.raises(Reset) as caught:
                while True:
                    await line.near.write(bytes(64 * 1024))
        assert caught.value.code is ErrorCode.LEG_LOST


async def _sever_when_full(line: Line) -> None:
    await until(lambda: line.near.unsent > 0)
    line.provider.sever()


async def test_it_lasts_until_the_peer_has_everything() -> None:
    async with spliced() as line:
        line.far.finish()
        assert await line.near.read() == b""
        data = bytes(WINDOW + WRITE_BUFFER)
        await line.near.write(data)
        line.near.finish()
        await until(lambda: line.splice.up.bytes == len(data))
        await everybody_waits()
        assert not line.run.done()  # behind the window there are bytes no packet has carried

        assert await read_all(line.far) == data
        assert (await line.run).code is ErrorCode.NONE


@pytest.mark.parametrize("owner", [CONSUMER, PROVIDER])
async def test_cancelled_it_leaves_neither_agent_waiting(owner: str) -> None:
    async with spliced(owner=owner) as line:
        await line.near.write(b"before")
        assert await line.far.read() == b"before"
        line.run.cancel()

        for stream in (line.near, line.far):
            with pytest.raises(Reset) as caught:
                await stream.read()
            assert caught.value.code is ErrorCode.LEG_LOST
        with pytest.raises(asyncio.CancelledError):
            await line.run
        assert line.splice.ending == Ending(ErrorCode.LEG_LOST, f"the {owner}'s connection is gone")


async def test_abandoned_it_ends_both_legs_with_the_code() -> None:
    async with spliced() as line:
        line.splice.abandon(ErrorCode.DENIED, "policy has changed")

        for stream in (line.near, line.far):
            with pytest.raises(Reset) as caught:
                await stream.read()
            assert caught.value.code is ErrorCode.DENIED
        assert await line.run == Ending(ErrorCode.DENIED, "policy has changed")


async def test_a_closed_connection_is_a_lost_leg() -> None:
    async with spliced() as line:
        line.consumer.close(ErrorCode.DRAIN)

        with pytest.raises(Reset) as caught:
            await line.far.read()
        assert caught.value.code is ErrorCode.LEG_LOST
        with pytest.raises(Closed):
            await line.near.read()

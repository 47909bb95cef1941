"""What every carrier promises of connections and streams, and of how they end.

Volume, flow control and numbers of streams are in test_contract_volume.py.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine

import pytest

from outrelay.lib.errors import Closed, ErrorCode, LocalProtocolError, Refused
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.carrier import WRITE_BUFFER, Connection, Stream
from tests.lib.transport.carriers import AGENT, RELAY, Harness, Pair, join
from tests.lib.transport.streams import (
    cancel,
    closing,
    echo,
    read_all,
    read_exactly,
    resetting,
    round_trips,
)

pytestmark = pytest.mark.both_loops

MUCH = bytes(8 << 20)
"""More than a carrier takes while nobody reads."""


# --- connections -----------------------------------------------------------------------


async def test_each_end_knows_the_other(pair: Pair, carrier: Harness) -> None:
    assert (pair.near.peer, pair.far.peer) == (RELAY, AGENT)
    assert pair.near.carrier == pair.far.carrier == carrier.name
    assert pair.near.peer_address == pair.far.local_address
    assert pair.far.peer_address == pair.near.local_address
    assert min(pair.near.peer_expires, pair.far.peer_expires) > 1_700_000_000


async def test_a_dialer_refuses_a_peer_of_another_role(carrier: Harness) -> None:
    listener, dialer = await carrier.listen(), await carrier.dialer()
    with pytest.raises(Refused, match="role") as refusal:
        await dialer.dial(listener.address, roles={Role.CONTROLLER})
    assert refusal.value.final


async def test_a_dialer_refuses_a_peer_of_another_name(carrier: Harness) -> None:
    listener, dialer = await carrier.listen(), await carrier.dialer()
    with pytest.raises(Refused, match="elsewhere") as refusal:
        await dialer.dial(listener.address, roles={Role.RELAY}, server_name="elsewhere")
    assert refusal.value.final


async def test_a_listener_refuses_a_peer_of_another_role(carrier: Harness) -> None:
    listener = await carrier.listen(accept_roles=frozenset({Role.RELAY}))
    dialer = await carrier.dialer()
    with pytest.raises(Refused) as refusal:
        await dialer.dial(listener.address, roles={Role.RELAY})
    assert refusal.value.final


async def test_one_dialer_dials_many_listeners(carrier: Harness) -> None:
    dialer = await carrier.dialer()
    pairs = [await join(await carrier.listen(), dialer) for _ in range(3)]
    for pair in pairs:
        await round_trips(await pair.stream(), count=1)


async def test_a_closed_listener_closes_what_it_accepted(carrier: Harness) -> None:
    listener = await carrier.listen()
    pair = await join(listener, await carrier.dialer())
    async with asyncio.TaskGroup() as group:
        accepting = group.create_task(closing(listener.accept()), name="accept")
        await asyncio.sleep(0)
        await listener.close()
    assert not accepting.result().by_peer
    assert (await pair.near.wait_closed()).by_peer
    assert not (await pair.far.wait_closed()).by_peer
    await closing(listener.accept())


# --- bytes -----------------------------------------------------------------------------


async def test_echo(pair: Pair) -> None:
    near, far = await pair.stream()
    async with asyncio.TaskGroup() as group:
        group.create_task(echo(far), name="echo")
        await near.write(b"hello, ")
        await near.write(b"")
        await near.write(memoryview(b"world"))
        near.finish()
        assert await read_all(near) == b"hello, world"


async def test_either_end_opens_streams(pair: Pair) -> None:
    streams = [await pair.stream(), await pair.stream_back(), await pair.stream()]
    assert all(near.id == far.id for near, far in streams)
    assert len({near.id for near, _ in streams}) == len(streams)
    for ends in streams:
        await round_trips(ends, count=2)


async def test_the_first_stream_of_the_dialler_is_number_0(pair: Pair) -> None:
    near, _ = await pair.stream()
    assert near.id == 0


async def test_streams_arrive_in_order(pair: Pair) -> None:
    opened = [await pair.near.open_stream() for _ in range(10)]
    for stream in opened:
        await stream.write(b"x")
    assert [(await pair.far.accept_stream()).id for _ in opened] == [one.id for one in opened]


async def test_a_read_takes_no_more_than_its_limit(pair: Pair) -> None:
    near, far = await pair.stream()
    await near.write(b"abcdef")
    near.finish()
    assert await read_exactly(far, 4) == b"abcd"
    assert await far.read(1) == b"e"
    assert await far.read(100) == b"f"
    assert await far.read(100) == b""
    assert await far.read(100) == b""


async def test_a_written_buffer_may_be_used_again(pair: Pair) -> None:
    near, far = await pair.stream()
    buffer = bytearray(b"before")
    await near.write(buffer)
    buffer[:] = b"after."
    buffer.extend(b"and longer")  # a view left open on it would raise BufferError
    assert await read_exactly(far, 6) == b"before"


# --- clean ends ------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["near", "far"])
async def test_half_close(pair: Pair, first: str) -> None:
    streams = await pair.stream()
    one, other = streams if first == "near" else streams[::-1]
    await one.write(b"question")
    one.finish()
    one.finish()
    assert await read_all(other) == b"question"
    for part in (b"a long", b" answer"):
        await other.write(part)
        assert await read_exactly(one, len(part)) == part
    other.finish()
    assert await read_all(one) == b""
    await one.wait_finished()
    await other.wait_finished()


async def test_finish_of_an_untouched_stream_reaches_the_peer(pair: Pair) -> None:
    near = await pair.near.open_stream()
    near.finish()
    far = await pair.far.accept_stream()
    assert await read_all(far) == b""


async def test_nothing_is_written_after_finish(pair: Pair) -> None:
    near, _ = await pair.stream()
    near.finish()
    with pytest.raises(LocalProtocolError):
        await near.write(b"more")


async def test_finished_means_the_peer_has_everything(pair: Pair) -> None:
    near, far = await pair.stream()
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(near.write(MUCH), name="write")
        finished = group.create_task(near.wait_finished(), name="wait finished")
        await round_trips(await pair.stream())
        assert not finished.done()
        assert await read_exactly(far, len(MUCH)) == MUCH
        await writing
        assert not finished.done()
        near.finish()
    near.reset(ErrorCode.CANCELLED)  # too late to take anything back
    await round_trips(await pair.stream(), count=2)
    await near.wait_finished()
    assert await far.read() == b""


# --- early ends ------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["near", "far"])
async def test_reset_each_way(pair: Pair, first: str) -> None:
    streams = await pair.stream()
    one, other = streams if first == "near" else streams[::-1]
    one.reset(ErrorCode.DENIED)
    one.reset(ErrorCode.CANCELLED)
    for call in (other.read(), other.read(), one.write(b"x"), one.wait_finished()):
        assert await resetting(call) is ErrorCode.DENIED
    await other.write(b"still open")
    other.finish()
    assert await read_all(one) == b"still open"


async def test_our_peers_learn_codes_from_the_carrier(pair: Pair) -> None:
    near, far = await pair.stream()
    assert pair.near.tells_codes
    assert pair.far.tells_codes
    near.explain(ErrorCode.LEG_LOST)
    far.reset(ErrorCode.DENIED)
    assert await resetting(near.read()) is ErrorCode.DENIED


async def test_reset_wakes_both_sides(pair: Pair) -> None:
    near, far = await pair.stream()
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(resetting(far.read()), name="read")
        finishing = group.create_task(resetting(near.wait_finished()), name="wait finished")
        await round_trips(await pair.stream())
        near.reset(ErrorCode.LIMIT)
    assert (reading.result(), finishing.result()) == (ErrorCode.LIMIT, ErrorCode.LIMIT)


async def test_reset_of_an_untouched_stream_reaches_the_peer(pair: Pair) -> None:
    near = await pair.near.open_stream()
    near.reset(ErrorCode.EXPIRED)
    far = await pair.far.accept_stream()
    assert await resetting(far.read()) is ErrorCode.EXPIRED


async def test_reset_after_finish_is_no_clean_end(pair: Pair) -> None:
    near, far = await pair.stream()
    while near.unsent < WRITE_BUFFER // 2:
        await near.write(bytes(WRITE_BUFFER // 4))
    near.finish()
    near.reset(ErrorCode.CANCELLED)
    assert await resetting(near.wait_finished()) is ErrorCode.CANCELLED
    assert await resetting(read_all(far)) is ErrorCode.CANCELLED


@pytest.mark.parametrize("first", ["near", "far"])
async def test_stop_each_way(pair: Pair, first: str) -> None:
    streams = await pair.stream()
    one, other = streams if first == "near" else streams[::-1]
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(resetting(other.write(MUCH)), name="write")
        finishing = group.create_task(resetting(other.wait_finished()), name="wait finished")
        await round_trips(await pair.stream())
        one.stop(ErrorCode.LEG_LOST)
        one.stop(ErrorCode.CANCELLED)
    assert (writing.result(), finishing.result()) == (ErrorCode.LEG_LOST, ErrorCode.LEG_LOST)
    assert await resetting(one.read()) is ErrorCode.LEG_LOST
    assert await resetting(other.write(b"x")) is ErrorCode.LEG_LOST
    await one.write(b"still open")
    one.finish()
    assert await read_all(other) == b"still open"


async def test_stop_wakes_our_reader(pair: Pair) -> None:
    near, _ = await pair.stream()
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(resetting(near.read()), name="read")
        await asyncio.sleep(0)
        near.stop(ErrorCode.DENIED)
    assert reading.result() is ErrorCode.DENIED


async def test_stop_after_the_end_changes_nothing_for_the_writer(pair: Pair) -> None:
    near, far = await pair.stream()
    await near.write(b"all of it")
    near.finish()
    await near.wait_finished()
    far.stop(ErrorCode.CANCELLED)
    await round_trips(await pair.stream())
    await near.wait_finished()


# --- one reader, one writer --------------------------------------------------------------


async def test_two_readers_are_our_own_error(pair: Pair) -> None:
    near, far = await pair.stream()
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(near.read(), name="read")
        await asyncio.sleep(0)
        with pytest.raises(LocalProtocolError):
            await near.read()
        await far.write(b"for the first")
    assert reading.result() == b"for the first"


async def test_two_writers_are_our_own_error(pair: Pair) -> None:
    near, far = await pair.stream()
    async with asyncio.TaskGroup() as group:
        group.create_task(near.write(MUCH), name="write")
        await round_trips(await pair.stream())
        with pytest.raises(LocalProtocolError):
            await near.write(b"x")
        assert await read_exactly(far, len(MUCH)) == MUCH


# --- cancellation ------------------------------------------------------------------------


async def test_a_cancelled_read_takes_nothing(pair: Pair) -> None:
    near, far = await pair.stream()
    sent = random.Random(1).randbytes(200 * 5)
    got = bytearray()

    async def write() -> None:
        for start in range(0, len(sent), 5):
            await near.write(sent[start : start + 5])
            await asyncio.sleep(0)
        near.finish()

    async with asyncio.TaskGroup() as group:
        await cancel(group.create_task(far.read(), name="read"))
        group.create_task(write(), name="write")
        chance = random.Random(2)
        while True:
            reading = group.create_task(far.read(), name="read")
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            if not reading.cancelled():
                if not reading.result():
                    break
                got += reading.result()
    assert got == sent


async def test_a_cancelled_write_has_written_a_prefix(pair: Pair) -> None:
    near, far = await pair.stream()
    other = await pair.stream()
    data = random.Random(3).randbytes(len(MUCH))
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(near.write(data), name="write")
        await round_trips(other)
        await cancel(writing)
    got = await far.read(1000)
    assert got == data[:1000]
    while len(got) < WRITE_BUFFER:
        got += await far.read()
    assert data.startswith(got)
    near.reset(ErrorCode.CANCELLED)
    assert await resetting(read_all(far)) is ErrorCode.CANCELLED
    await round_trips(other)


@pytest.mark.parametrize("call", ["accept_stream", "wait_closed", "wait_finished"])
async def test_cancelled_waits_leave_the_connection_usable(pair: Pair, call: str) -> None:
    near, _ = await pair.stream()
    waits: dict[str, Callable[[], Coroutine[object, object, object]]] = {
        "accept_stream": pair.far.accept_stream,
        "wait_closed": pair.far.wait_closed,
        "wait_finished": near.wait_finished,
    }
    async with asyncio.TaskGroup() as group:
        await cancel(group.create_task(waits[call](), name=call))
    await round_trips(await pair.stream(), count=2)


async def test_a_cancelled_dial_leaves_the_dialer_usable(carrier: Harness) -> None:
    listener, dialer = await carrier.listen(), await carrier.dialer()
    async with asyncio.TaskGroup() as group:
        dialling = dialer.dial(listener.address, roles={Role.RELAY})
        await cancel(group.create_task(dialling, name="dial"))
    pair = await join(listener, dialer)
    await round_trips(await pair.stream(), count=2)


# --- the end of a connection -------------------------------------------------------------


class Waits:
    """Every call of one end that waits for something that does not come."""

    def __init__(self, group: asyncio.TaskGroup, end: Connection, idle: Stream, full: Stream):
        self._calls = {
            name: group.create_task(closing(call), name=name)
            for name, call in (
                ("accept_stream", end.accept_stream()),
                ("read", idle.read()),
                ("write", full.write(MUCH)),
                ("wait_finished", idle.wait_finished()),
            )
        }

    def check(self, expected: Closed) -> None:
        """Every one of them has raised what was expected."""
        for name, call in self._calls.items():
            assert summary(call.result()) == summary(expected), name


def summary(closed: Closed) -> tuple[ErrorCode, str, bool, bool]:
    return closed.code, closed.reason, closed.by_peer, closed.lost


@pytest.mark.parametrize("closer", ["near", "far"])
async def test_close_ends_every_waiting_call(pair: Pair, closer: str) -> None:
    idle, full, other = await pair.stream(), await pair.stream(), await pair.stream()
    async with asyncio.TaskGroup() as group:
        near = Waits(group, pair.near, idle[0], full[0])
        far = Waits(group, pair.far, idle[1], full[1])
        await round_trips(other)
        one = pair.near if closer == "near" else pair.far
        one.close(ErrorCode.DRAIN, "going down")
        one.close(ErrorCode.DENIED, "too late")
    ours = Closed(ErrorCode.DRAIN, "going down")
    theirs = Closed(ErrorCode.DRAIN, "going down", by_peer=True)
    near.check(ours if closer == "near" else theirs)
    far.check(theirs if closer == "near" else ours)
    assert summary(await pair.near.wait_closed()) == summary(ours if closer == "near" else theirs)


async def test_a_lost_path_ends_every_waiting_call(carrier: Harness) -> None:
    pair, sever = await carrier.connect_severable()
    idle, full, other = await pair.stream(), await pair.stream(), await pair.stream()
    async with asyncio.TaskGroup() as group:
        near = Waits(group, pair.near, idle[0], full[0])
        far = Waits(group, pair.far, idle[1], full[1])
        await round_trips(other)
        sever()
    for end, waits in ((pair.near, near), (pair.far, far)):
        closed = await end.wait_closed()
        assert closed.lost
        assert not closed.by_peer
        waits.check(closed)


@pytest.mark.parametrize("closer", ["near", "far"])
async def test_after_close_calls_raise_and_ends_do_nothing(pair: Pair, closer: str) -> None:
    stream, _ = await pair.stream()
    (pair.near if closer == "near" else pair.far).close()
    await pair.near.wait_closed()
    for call in (
        pair.near.open_stream(),
        pair.near.accept_stream(),
        stream.read(),
        stream.write(b"x"),
        stream.wait_finished(),
    ):
        assert (await closing(call)).by_peer == (closer == "far")
    stream.finish()
    stream.stop(ErrorCode.CANCELLED)
    stream.reset(ErrorCode.CANCELLED)
    pair.near.close()
    assert stream.unsent == 0

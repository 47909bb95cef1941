"""Many streams that end in every way at once: whatever happens, no byte is wrong.

Each direction of each stream has a writer and a reader with a plan drawn from a seed. A
writer finishes or resets; a reader takes everything or stops somewhere. Whoever plans what,
the two must agree on what happened, and every stream's credit must come back.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

from outrelay.lib.errors import ErrorCode, Reset
from outrelay.lib.transport.carrier import Stream
from tests.lib.transport.carriers import Harness, Pair, QuicHarness
from tests.support.impair import Impairment
from tests.support.patience import PATIENCE

pytestmark = pytest.mark.both_loops

STREAMS = 80
STOPPED, RESET = ErrorCode.DENIED, ErrorCode.LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What becomes of one direction of a stream.

    Args:
        data: What its writer sends.
        chunk: Bytes of one write.
        resets: Whether the writer resets after it, instead of finishing.
        stops_at: Bytes after which the reader stops; None: it takes everything.
        take: Bytes of one read.
    """

    data: bytes
    chunk: int
    resets: bool
    stops_at: int | None
    take: int

    @classmethod
    def draw(cls, chance: random.Random) -> Plan:
        size = chance.choice([0, 1, 1_000, 50_000, 400_000])
        return cls(
            data=chance.randbytes(size),
            chunk=chance.choice([700, 20_000, 500_000]),
            resets=chance.random() < 0.3,
            stops_at=chance.randrange(size + 1) if chance.random() < 0.3 else None,
            take=chance.choice([1_000, 60_000, 1 << 20]),
        )


async def write(stream: Stream, plan: Plan) -> ErrorCode | None:
    """Carry out the writer's part; the code it was ended with, None for a clean end."""
    try:
        for start in range(0, len(plan.data), plan.chunk):
            await stream.write(plan.data[start : start + plan.chunk])
        if plan.resets:
            stream.reset(RESET)
        stream.finish()
        await stream.wait_finished()
    except Reset as error:
        return error.code
    return None


async def read(stream: Stream, plan: Plan) -> tuple[bytes, ErrorCode | None]:
    """Carry out the reader's part: what came, and the code it ended with."""
    got = bytearray()
    try:
        while plan.stops_at is None or len(got) < plan.stops_at:
            part = await stream.read(plan.take)
            if not part:
                return bytes(got), None
            got += part
        stream.stop(STOPPED)
        await stream.read()
    except Reset as error:
        return bytes(got), error.code
    return bytes(got), None


def check(plan: Plan, wrote: ErrorCode | None, got: bytes, read: ErrorCode | None) -> None:
    """Writer and reader agree."""
    assert plan.data.startswith(got)
    if read is None:  # a clean end is the whole of it
        assert got == plan.data
        assert wrote is None
    elif read is RESET:
        assert plan.resets
        assert wrote is RESET
    else:
        assert plan.stops_at is not None
        assert wrote in ({STOPPED, RESET} if plan.resets else {STOPPED, None})
    if wrote is None:
        assert not plan.resets


async def run(ends: tuple[Stream, Stream], up: Plan, down: Plan) -> None:
    """One stream from its opening to the end of both directions."""
    near, far = ends
    async with asyncio.TaskGroup() as group:
        up_wrote = group.create_task(write(near, up), name="write up")
        up_got = group.create_task(read(far, up), name="read up")
        down_wrote = group.create_task(write(far, down), name="write down")
        down_got = group.create_task(read(near, down), name="read down")
    check(up, up_wrote.result(), *up_got.result())
    check(down, down_wrote.result(), *down_got.result())


async def mix(pair: Pair, seed: int, streams: int) -> None:
    chance = random.Random(seed)
    opened = [await pair.stream() for _ in range(streams)]
    async with asyncio.TaskGroup() as group:
        for number, ends in enumerate(opened):
            plans = Plan.draw(chance), Plan.draw(chance)
            group.create_task(run(ends, *plans), name=f"stream {number}")


async def check_credit(pair: Pair, carrier: Harness) -> None:
    """As many streams as ever can be open at once."""
    async with asyncio.timeout(PATIENCE):
        for _ in range(carrier.max_streams):
            await (await pair.near.open_stream()).write(b"x")


@pytest.mark.parametrize("seed", [1, 2])
async def test_streams_end_in_every_way_at_once(pair: Pair, carrier: Harness, seed: int) -> None:
    await mix(pair, seed, STREAMS)
    await check_credit(pair, carrier)


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_the_same_over_a_bad_path(quic: QuicHarness) -> None:
    path = Impairment(delay=0.005, loss=0.02, reorder=0.05)
    pair, _ = await quic.connect_through(path, seed=3)
    await mix(pair, 3, 12)
    await check_credit(pair, quic)

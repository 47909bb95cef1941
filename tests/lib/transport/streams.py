"""What the transport's tests do with streams, again and again."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Iterable
from typing import TypeVar

import pytest

from outrelay.lib.errors import Closed, ErrorCode, Reset
from outrelay.lib.transport.carrier import WRITE_BUFFER, Stream
from tests.lib.transport.carriers import Pair

T = TypeVar("T")

MIB = 1 << 20


async def read_all(stream: Stream) -> bytes:
    """Everything up to the end."""
    parts = []
    while part := await stream.read():
        parts.append(part)
    return b"".join(parts)


async def read_exactly(stream: Stream, size: int) -> bytes:
    """``size`` bytes; there must be as many."""
    data = b""
    while len(data) < size:
        part = await stream.read(size - len(data))
        assert part, f"the stream ended after {len(data)} of {size} bytes"
        data += part
    return data


async def echo(stream: Stream) -> None:
    """Send back what comes, and end as the peer ends."""
    while part := await stream.read():
        await stream.write(part)
    stream.finish()


async def round_trips(streams: tuple[Stream, Stream], count: int = 20) -> None:
    """Send bytes there and back: what was under way before them has arrived after them."""
    near, far = streams
    for number in range(count):
        message = number.to_bytes(4, "big") * 4
        await near.write(message)
        assert await read_exactly(far, len(message)) == message
        await far.write(message)
        assert await read_exactly(near, len(message)) == message
        await asyncio.sleep(0)  # a carrier may answer without giving way to other tasks


async def closing(call: Awaitable[object]) -> Closed:
    """The Closed that ``call`` raises."""
    with pytest.raises(Closed) as caught:
        await call
    return caught.value


async def resetting(call: Awaitable[object]) -> ErrorCode:
    """The code of the Reset that ``call`` raises."""
    with pytest.raises(Reset) as caught:
        await call
    return caught.value.code


async def cancel(task: asyncio.Task[T]) -> None:
    """Let a task begin to wait, cancel it, and wait for its end."""
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


def payload(seed: int, size: int) -> Iterable[bytes]:
    """Chunks that add up to ``size`` and repeat nowhere near each other."""
    block = random.Random(seed).randbytes(MIB)
    for start in range(0, size, MIB):
        yield start.to_bytes(8, "big") + block[8 : size - start]


async def send(stream: Stream, seed: int, size: int) -> str:
    """Send a payload to its acknowledged end; its hash."""
    digest = hashlib.sha256()
    for chunk in payload(seed, size):
        digest.update(chunk)
        await stream.write(chunk)
        assert stream.unsent <= WRITE_BUFFER
    stream.finish()
    await stream.wait_finished()
    return digest.hexdigest()


async def receive(stream: Stream) -> str:
    """The hash of everything up to the end."""
    digest = hashlib.sha256()
    while part := await stream.read():
        digest.update(part)
    return digest.hexdigest()


async def exchange(pair: Pair, size: int) -> None:
    """Send ``size`` bytes each way at once; they arrive as they were sent."""
    near, far = await pair.stream()
    async with asyncio.TaskGroup() as group:
        up = group.create_task(send(near, 1, size), name="send up")
        down = group.create_task(send(far, 2, size), name="send down")
        up_got = group.create_task(receive(far), name="receive up")
        down_got = group.create_task(receive(near), name="receive down")
    assert up.result() == up_got.result()
    assert down.result() == down_got.result()

"""What the transport's tests do with streams, again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from outrelay.lib.errors import Closed, ErrorCode, Reset
from outrelay.lib.transport.carrier import Stream

T = TypeVar("T")


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

"""Streams opened, used and closed in every way there is.

The backend does what the first byte of a connection tells it (``obedient``); a *way* is an
application that asks for something, sees it happen, and leaves. ``Traffic`` has many of them
about at a time, in an order that only its seed tells.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import StreamReader, StreamWriter, TaskGroup
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from outrelay.lib.values import Address
from tests.integration.peers import abort, answer_to, calling, echo, ping
from tests.integration.world import APP, DEAD, GHOST, SECRET
from tests.support.patience import PATIENCE

ECHO, LEAVE_FIRST, ABORT = b"e", b"l", b"a"

AT_A_TIME = 24
"""Applications."""

At = Mapping[str, Address]
"""Where the consumer listens, by service."""


async def obedient(reader: StreamReader, writer: StreamWriter) -> None:
    """A backend that does what it is told by the first byte."""
    with suppress(ConnectionError):
        match await reader.read(1):
            case b"e":
                await echo(reader, writer)
            case b"l":
                writer.write(b"bye")
                writer.write_eof()
                await reader.read()
            case b"a":
                await abort(writer)


# ---- ways ----------------------------------------------------------------------------------


async def _answered(at: At, size: int) -> None:
    words = bytes(size)
    assert await answer_to(at[APP], ECHO + words) == words


async def _left_first(at: At, size: int) -> None:
    async with calling(at[APP]) as (reader, writer):
        writer.write(LEAVE_FIRST)
        assert await reader.read() == b"bye"
        writer.write(bytes(size))
        writer.write_eof()


async def _aborted_by_the_application(at: At, size: int) -> None:
    async with calling(at[APP]) as (reader, writer):
        writer.write(ECHO)
        await ping(reader, writer)
        writer.write(bytes(size))
        await abort(writer)


async def _aborted_while_opening(at: At, size: int) -> None:
    async with calling(at[APP]) as (_, writer):
        writer.write(bytes(size))
        await abort(writer)


async def _aborted_by_the_backend(at: At, _size: int) -> None:
    async with calling(at[APP]) as (reader, writer):
        writer.write(ABORT)
        await _no_answer(reader)


async def _refused(at: At, size: int, service: str) -> None:
    with suppress(ConnectionResetError):  # which may be there before the connect is looked at
        async with calling(at[service]) as (reader, writer):
            writer.write(bytes(size))
            await _no_answer(reader)


async def _no_answer(reader: StreamReader) -> None:
    with suppress(ConnectionResetError):
        assert await reader.read() == b""


async def _denied(at: At, size: int) -> None:
    await _refused(at, size, SECRET)


async def _nobodys(at: At, size: int) -> None:
    await _refused(at, size, GHOST)


async def _refused_by_the_provider(at: At, size: int) -> None:
    await _refused(at, size, DEAD)


WAYS: Mapping[Callable[[At, int], Awaitable[None]], int] = {
    _answered: 4,
    _left_first: 2,
    _aborted_by_the_application: 2,
    _aborted_while_opening: 2,
    _aborted_by_the_backend: 2,
    _denied: 1,
    _nobodys: 1,
    _refused_by_the_provider: 1,
}
"""And how often each is gone, beside the others."""

SIZES = {0: 2, 1: 2, 1_000: 4, 60_000: 2, 300_000: 1}
"""Of what is sent, bytes, and how often."""


class Traffic:
    """Applications, many at a time.

    Args:
        at: Where the consumer listens, by service.
        seed: Makes it another traffic.
    """

    def __init__(self, at: At, seed: int = 5) -> None:
        self._at = at
        self._chance = random.Random(seed)
        self.gone: Counter[str] = Counter()
        """How often each way was gone."""

    async def run(self, streams: int) -> None:
        """Open so many streams, and return when all have ended for their applications."""
        ways = self._chance.choices(list(WAYS), list(WAYS.values()), k=streams)
        sizes = self._chance.choices(list(SIZES), list(SIZES.values()), k=streams)
        waiting = iter(zip(ways, sizes, strict=True))

        async def applications() -> None:
            for way, size in waiting:
                async with asyncio.timeout(PATIENCE):
                    await way(self._at, size)
                self.gone[way.__name__] += 1

        async with TaskGroup() as group:
            for _ in range(AT_A_TIME):
                group.create_task(applications(), name="applications")

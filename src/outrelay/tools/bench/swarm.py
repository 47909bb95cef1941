"""The load of many connections at once: a backend that echoes, and clients that need an echo.

Each runs as a process of its own (``python -m outrelay.tools.bench.swarm``) on one event
loop, where ``load`` has a thread for each connection: at hundreds of connections a second
threads would be what is measured.

Words: an *open* is a connect, a byte that comes back, and a close. Opens are *due* at times
that are fixed before (an open loop): an answer that is late does not put off the next
question, and its delay counts from when the open was due, not from when there was time for it.

Invariants: the client, which receives, counts; every byte of a stream is compared with what
was sent.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from asyncio import TaskGroup
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias, cast

from outrelay.lib.service import new_event_loop
from outrelay.lib.values import Address

PATIENCE = 10.0
"""Seconds from when an open is due to its echo; beyond, it has failed."""

STALLED = 60.0
"""Seconds for one echo of a stream among many; beyond, it has failed."""

CHUNK = 8 * 1024
"""Bytes a stream has on the way: with a thousand streams, 8 MiB."""

_OPENING = 32
"""Streams opened at a time, where it is not opening that is measured."""
_BACKLOG = 1024
_LEAD = 0.2
"""Seconds from the start of the program to the first open."""

_Stream: TypeAlias = "tuple[asyncio.StreamReader, asyncio.StreamWriter]"


# ---- the backend ---------------------------------------------------------------------------


class _Echo(asyncio.Protocol):
    """Sends back what comes, and ends when the other side does."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


async def serve() -> None:
    """Echo until killed; the first line on standard output is the port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Echo, "127.0.0.1", 0, backlog=_BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# ---- opens ---------------------------------------------------------------------------------


async def opens(address: Address, rate: int, count: int) -> dict[str, object]:
    """Open ``count`` times, ``rate`` times a second.

    Returns:
        ``values``: seconds from when each open was due to its echo; ``errors``: what came
        of the others; ``seconds``: from the first one due to the last echo.
    """
    loop = asyncio.get_running_loop()
    delays: list[float] = []
    errors: list[str] = []

    async def one(due: float) -> None:
        with _noted(errors):
            async with asyncio.timeout_at(due + PATIENCE):
                reader, writer = await asyncio.open_connection(*address)
                try:
                    writer.write(b"?")
                    await reader.readexactly(1)
                    delays.append(loop.time() - due)
                finally:
                    writer.close()

    start = loop.time() + _LEAD
    async with TaskGroup() as group:
        for number in range(count):
            due = start + number / rate
            await asyncio.sleep(due - loop.time())
            group.create_task(one(due), name=f"open {number}")
    return {"values": delays, "errors": errors, "seconds": loop.time() - start}


# ---- streams -------------------------------------------------------------------------------


async def streams(address: Address, count: int, seconds: float) -> dict[str, object]:
    """Keep ``count`` streams moving both ways at once.

    Returns:
        ``values``: bytes that came back on each stream within ``seconds``, all being open;
        ``errors``: what befell streams. None is counted unless all could be opened.
    """
    errors: list[str] = []
    moved = [0] * count
    over = asyncio.Event()

    async def move(number: int, stream: _Stream) -> None:
        chunk = random.Random(number).randbytes(CHUNK)
        with _noted(errors):
            while not over.is_set():
                await _exchange(stream, chunk)
                moved[number] += CHUNK

    opened = await _open_all(address, count, errors)
    counted: list[int] = []
    if not errors:
        async with TaskGroup() as group:
            for number, stream in enumerate(opened):
                group.create_task(move(number, stream), name=f"stream {number}")
            await asyncio.sleep(seconds)
            counted = list(moved)
            over.set()
    for _, writer in opened:
        writer.close()
    return {"values": counted, "errors": errors, "seconds": seconds}


async def _open_all(address: Address, count: int, errors: list[str]) -> list[_Stream]:
    """Streams that are spliced, as many as could be opened, a few at a time."""
    opened: list[_Stream] = []
    turn = asyncio.Semaphore(_OPENING)

    async def one() -> None:
        async with turn:
            with _noted(errors):
                stream = await asyncio.open_connection(*address)
                opened.append(stream)
                await _exchange(stream, b"?")

    async with TaskGroup() as group:
        for number in range(count):
            group.create_task(one(), name=f"open {number}")
    return opened


async def _exchange(stream: _Stream, chunk: bytes) -> None:
    reader, writer = stream
    writer.write(chunk)
    async with asyncio.timeout(STALLED):
        if await reader.readexactly(len(chunk)) != chunk:
            raise OSError("other bytes came back than were sent")


@contextmanager
def _noted(errors: list[str]) -> Iterator[None]:
    """Note what befalls a connection in the body."""
    try:
        yield
    except (OSError, EOFError, TimeoutError) as error:
        errors.append(repr(error))


# ---- as a program --------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """``serve``, ``opens PORT RATE COUNT`` or ``streams PORT COUNT SECONDS``; answers in JSON."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        if arguments[0] == "serve":
            runner.run(serve())
        port, first, second = map(int, arguments[1:])
        work = opens if arguments[0] == "opens" else streams
        answer = runner.run(work(("127.0.0.1", port), first, second))
    print(json.dumps(answer | {"cpu_seconds": time.process_time()}))


if __name__ == "__main__":
    main(sys.argv[1:])

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
from collections.abc import Sequence
from typing import cast

from outrelay.lib.service import new_event_loop
from outrelay.lib.values import Address

PATIENCE = 10.0
"""Seconds for one echo; beyond, the open or the stream has failed."""

CHUNK = 16 * 1024
"""Bytes a stream has on the way: with a thousand streams, 16 MiB each way."""

_BACKLOG = 1024
_LEAD = 0.2
"""Seconds from the start of the program to the first open."""


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
        try:
            async with asyncio.timeout_at(due + PATIENCE):
                reader, writer = await asyncio.open_connection(*address)
                try:
                    writer.write(b"?")
                    await reader.readexactly(1)
                    delays.append(loop.time() - due)
                finally:
                    writer.close()
        except (OSError, EOFError, TimeoutError) as error:
            errors.append(repr(error))

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
        ``errors``: what befell the others.
    """
    opened = [await asyncio.open_connection(*address) for _ in range(count)]
    moving, over = asyncio.Barrier(count + 1), asyncio.Event()
    moved = [0] * count
    errors: list[str] = []

    async def one(number: int) -> None:
        reader, writer = opened[number]
        chunk = random.Random(number).randbytes(CHUNK)
        try:
            await _exchange(reader, writer, chunk)  # it is spliced
            await moving.wait()
            while not over.is_set():
                await _exchange(reader, writer, chunk)
                moved[number] += CHUNK
        except (OSError, EOFError, TimeoutError, asyncio.BrokenBarrierError) as error:
            errors.append(repr(error))
            await moving.abort()  # a stream that fails before all move fails the run
        finally:
            writer.close()

    async with TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number), name=f"stream {number}")
        try:
            await moving.wait()
            await asyncio.sleep(seconds)
            counted = list(moved)
        except asyncio.BrokenBarrierError:
            counted = []
        over.set()
    return {"values": counted, "errors": errors, "seconds": seconds}


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chunk: bytes
) -> None:
    writer.write(chunk)
    async with asyncio.timeout(6 * PATIENCE):
        if await reader.readexactly(len(chunk)) != chunk:
            raise OSError("other bytes came back than were sent")


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

"""Streams whose every byte is known: what must come out of them, whatever happens on the way.

Words: a *flow* is one application's connection, from its opening to both ends. Each of its two
*directions* carries bytes that only the flow's number, the direction and the position tell, in
pieces of any size, at any pace, and ends by itself: early, or when the traffic does. So one
direction of a flow is often half-closed long before the other ends.

Invariant: what arrives is compared byte for byte as it comes. A flow is *whole* when both
directions arrived in full and ended; it may instead be *refused*, which the backend has not
begun to hear of; anything else is a *damage*.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import StreamReader, StreamWriter, TaskGroup
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.integration.peers import abort

Call: TypeAlias = Callable[[], AbstractAsyncContextManager[tuple[StreamReader, StreamWriter]]]

_CONTENT = random.Random(6).randbytes((1 << 20) - 3)
_TWICE = _CONTENT * 2
"""So that a piece from any position is one slice."""

GREETING = b"!"
READ_MOST = 256 * 1024
AGAIN = 0.3
"""Seconds until a flow that was refused is tried again."""

PACES = ((1 << 16, 0.05), (1 << 16, 0.2), (1 << 10, 0.2), (1 << 20, 1.0))
"""Bytes of the largest pieces, and seconds between two."""

ENDS = (None, 20.0, 1.0)
"""Seconds within which both directions of a flow end; None: they end with the traffic."""


@dataclass(slots=True, kw_only=True)
class Direction:
    """One way of a flow.

    Args:
        start: Where in the content it begins.
        most: Bytes of its largest pieces; most are far smaller.
        pause: Seconds between two pieces, on average.
        lasts: Seconds until it ends by itself; None: when the traffic does.
        chance: Draws the pieces.
    """

    start: int
    most: int
    pause: float
    lasts: float | None
    chance: random.Random
    sent: int = 0
    received: int = 0
    ended: bool = False
    complete: bool = False

    def piece(self, at: int, size: int) -> bytes:
        """The bytes from position ``at`` on."""
        begin = (self.start + at) % len(_CONTENT)
        return _TWICE[begin : begin + size]

    async def send(self, writer: StreamWriter, over: asyncio.Event) -> None:
        """Write pieces until the end, and that."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + (self.lasts if self.lasts is not None else float("inf"))
        while not over.is_set() and loop.time() < ends:
            size = int(self.most ** self.chance.random())
            writer.write(self.piece(self.sent, size))
            self.sent += size
            await writer.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.chance.expovariate(1 / self.pause)):
                    await over.wait()
        self.ended = True
        writer.write_eof()

    async def receive(self, reader: StreamReader) -> None:
        """Compare what comes, until the end."""
        while data := await reader.read(READ_MOST):
            if data != self.piece(self.received, len(data)):
                raise AssertionError(f"other bytes than were sent, behind byte {self.received}")
            self.received += len(data)
        if not self.ended or self.received != self.sent:
            raise AssertionError(f"cut off at byte {self.received} of {self.sent}")
        self.complete = True

    def __str__(self) -> str:
        state = "whole" if self.complete else "ended" if self.ended else "open"
        return f"{self.received}/{self.sent} {state}"


@dataclass(slots=True, kw_only=True)
class Flow:
    """One connection of an application.

    Args:
        number: Its own.
        up: From the application.
        down: To it.
    """

    number: int
    up: Direction
    down: Direction
    heard: bool = False
    """Whether the backend has read who it is: from now on it must be whole."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the backend is through with it."""

    @classmethod
    def drawn(cls, number: int, seed: str, beside: int) -> Flow:
        """The flow of that number, one of ``beside`` that share the machine."""
        chance = random.Random(f"{seed} {number}")
        ends = chance.choice(ENDS)
        paces = [(most, pause * max(1.0, beside / 5)) for most, pause in PACES]
        up, down = (
            Direction(
                start=chance.randrange(len(_CONTENT)),
                most=pace[0],
                pause=pace[1],
                lasts=ends and chance.uniform(0, ends),
                chance=random.Random(chance.random()),
            )
            for pace in chance.choices(paces, k=2)
        )
        return cls(number=number, up=up, down=down)

    @property
    def progress(self) -> int:
        """Grows whenever something arrives."""
        return self.up.received + self.down.received + self.up.complete + self.down.complete

    def __str__(self) -> str:
        heard = "" if self.heard else " (not heard)"
        return f"flow {self.number}{heard}: up {self.up}, down {self.down}"


class Traffic:
    """So many flows at a time, each followed by another one.

    Args:
        call: Makes an application's connection.
        seed: Makes it another traffic.
        streams: At a time.
    """

    def __init__(self, call: Call, seed: str, streams: int) -> None:
        self._calling = call
        self._seed = seed
        self._streams = streams
        self._over = asyncio.Event()
        self._numbers = iter(range(1 << 32))
        self.open: dict[int, Flow] = {}
        self.whole = 0
        self.refused = 0
        self.bytes = 0
        self.damages: list[str] = []
        self._given_up = False

    async def run(self) -> None:
        """Have flows, until the end is told and the last one is over."""
        async with TaskGroup() as group:
            for _ in range(self._streams):
                group.create_task(self._one_after_another(), name="flows")

    def end(self) -> None:
        """Open no further flow, and end those there are."""
        self._over.set()

    async def moved(self) -> None:
        """Return when each place has seen something arrive since now, and a flow in it."""
        before = {number: flow.progress for number, flow in self.open.items()}
        while True:
            if len(self.open) == self._streams and all(
                flow.progress > before.get(number, 0) for number, flow in self.open.items()
            ):
                return
            await asyncio.sleep(0.05)  # cheaper than to be told of each piece

    def give_up(self) -> list[str]:
        """The flows there are, for people; what becomes of them now is no damage."""
        self._given_up = True
        return [str(flow) for flow in self.open.values()] or ["none is open"]

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """The backend."""
        try:
            number = int.from_bytes(await reader.readexactly(4))
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # opened, and given up before anybody could know
        flow = self.open[number]
        flow.heard = True
        writer.write(GREETING)
        try:
            async with TaskGroup() as group:
                group.create_task(flow.down.send(writer, self._over))
                group.create_task(flow.up.receive(reader))
        except* (OSError, AssertionError) as errors:  # ENOTCONN is no ConnectionError
            self._damage(flow, "backend", errors)
            await _abort(writer)
        finally:
            flow.gone.set()

    async def _one_after_another(self) -> None:
        while not self._over.is_set():
            flow = Flow.drawn(next(self._numbers), self._seed, self._streams)
            self.open[flow.number] = flow
            try:
                is_whole = await self._call(flow)
            finally:
                del self.open[flow.number]
            self.whole += is_whole
            self.refused += not flow.heard
            self.bytes += flow.up.received + flow.down.received
            if not is_whole:
                await asyncio.sleep(AGAIN)

    async def _call(self, flow: Flow) -> bool:
        """The application."""
        async with self._calling() as (reader, writer):
            try:
                writer.write(flow.number.to_bytes(4))
                if await self._is_greeted(flow, reader):
                    async with TaskGroup() as group:
                        group.create_task(flow.up.send(writer, self._over))
                        group.create_task(flow.down.receive(reader))
            except* (OSError, AssertionError) as errors:  # ENOTCONN is no ConnectionError
                self._damage(flow, "application", errors)
                await _abort(writer)
        if flow.heard:
            await flow.gone.wait()
        return flow.up.complete and flow.down.complete

    async def _is_greeted(self, flow: Flow, reader: StreamReader) -> bool:
        try:
            greeting = await reader.read(1)
        except ConnectionError:
            greeting = b""
        if not greeting and flow.heard:
            raise AssertionError("cut off before the greeting")
        return greeting == GREETING

    def _damage(self, flow: Flow, where: str, errors: BaseExceptionGroup[Exception]) -> None:
        if flow.heard and not self._given_up:
            what = "; ".join(str(each) or type(each).__name__ for each in errors.exceptions)
            self.damages.append(f"{flow}: {where}: {what}")


async def _abort(writer: StreamWriter) -> None:
    with suppress(OSError):  # it is gone already
        await abort(writer)

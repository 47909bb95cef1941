"""From the application's socket to whichever leg there is.

Invariants: nothing is taken from the socket that the ring has no room for, nor before what was
taken before is on the leg.

Source: protocol.md section 6.
"""

from __future__ import annotations

import asyncio
import socket

from outrelay.agent.bridge import CHUNK, Counts
from outrelay.agent.resume.leg import Leg
from outrelay.agent.resume.line import Line
from outrelay.agent.resume.rings import Rings
from outrelay.agent.resume.teller import Teller
from outrelay.agent.watch import Guard
from outrelay.lib.errors import Closed, Reset


class Upload:
    """The direction of the application's bytes.

    Args:
        line: The stream.
        sock: The application's.
        rings: Tell when there may be room.
        teller: Tells the peer of what was sent.
        counts: Told what happens.
    """

    def __init__(
        self, line: Line, sock: socket.socket, rings: Rings, teller: Teller, counts: Counts
    ) -> None:
        self._line = line
        self._state = line.state
        self._socket = sock
        self._rings = rings
        self._teller = teller
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        line.wake_upload = self._woken.set

    async def run(self, guard: Guard) -> None:
        """Pass bytes on until the stream is over.

        Raises:
            OSError: The application aborted.
        """
        while not self._line.over.is_set():
            leg = await self._line.attached()
            try:
                await self._feed(leg, guard)
            except (Reset, Closed) as error:
                self._line.not_written(leg, error)
            await leg.over.wait()

    async def _feed(self, leg: Leg, guard: Guard) -> None:
        """Everything that is not on the leg yet, what is new, and the end."""
        while leg.again:
            await leg.carrier.write(leg.again.popleft())
        while self._state.final is None:
            data = await self._next(leg)
            if data is None:
                return
            if data:
                await self._pass_on(leg, data)
            else:
                await self._end(guard)
        self._line.finish()

    async def _pass_on(self, leg: Leg, data: bytes) -> None:
        self._state.send(data)
        self._counts.sent(len(data))
        self._teller.arm()
        await leg.carrier.write(data)

    async def _end(self, guard: Guard) -> None:
        await asyncio.sleep(0)  # see Bridge
        guard.check()
        self._state.finish(self._loop.time())
        self._counts.fin()
        self._teller.tell()

    async def _next(self, leg: Leg) -> bytes | None:
        """What the application writes next, empty at its end; None when nobody wants it."""
        while not (leg.over.is_set() or self._line.unread):
            room = self._state.room
            if not room:
                await self._until_room()
                continue
            try:
                return self._socket.recv(min(CHUNK, room))
            except (BlockingIOError, InterruptedError):
                await self._until_readable()
        return None

    async def _until_room(self) -> None:
        self._woken.clear()
        with self._rings.waiting(self._woken):
            await self._woken.wait()

    async def _until_readable(self) -> None:
        self._woken.clear()
        self._loop.add_reader(self._socket.fileno(), self._woken.set)
        try:
            await self._woken.wait()
        finally:
            self._loop.remove_reader(self._socket.fileno())

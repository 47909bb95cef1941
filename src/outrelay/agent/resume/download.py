"""From whichever leg there is to the application's socket.

Invariant: what was read from a leg that is attached is ours: it counts as taken, and the
application gets it before anything of the next leg is read.

Source: protocol.md section 6.
"""

from __future__ import annotations

import asyncio
import socket

from outrelay.agent.bridge import Counts
from outrelay.agent.resume.leg import Leg
from outrelay.agent.resume.line import Line
from outrelay.agent.resume.teller import Teller
from outrelay.agent.watch import Guard
from outrelay.lib.errors import Closed, ErrorCode, RemoteProtocolError, Reset
from outrelay.lib.transport.carrier import READ_SIZE


class Download:
    """The direction of the peer's bytes.

    Args:
        line: The stream.
        sock: The application's.
        teller: Tells the peer of what was taken.
        counts: Told what happens.
        guard: Released before our direction of the socket ends.
    """

    def __init__(
        self, line: Line, sock: socket.socket, teller: Teller, counts: Counts, guard: Guard
    ) -> None:
        self._line = line
        self._state = line.state
        self._socket = sock
        self._teller = teller
        self._counts = counts
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self.received = 0
        """Bytes that the application has."""

    async def run(self) -> None:
        """Pass bytes on until the stream is over, or the application takes no more.

        Raises:
            Reset: The peer has abandoned its direction.
            RemoteProtocolError: It says what no honest one says.
            OSError: The application aborted.
        """
        line = self._line
        while not (line.over.is_set() or line.undelivered):
            leg = await line.attached()
            try:
                await self._take_from(leg)
            except (Reset, Closed) as error:
                line.not_read(leg, error)

    def see_end(self) -> bool:
        """End our direction of the socket once everything is in it; whether the peer was told."""
        ends = self._line.ends
        if ends.delivered or self._line.undelivered or self.received != self._state.peer_final:
            return False
        ends.delivered = True
        self._guard.release()
        self._socket.shutdown(socket.SHUT_WR)
        self._counts.fin()
        if self._state.is_told:
            return False
        self._teller.tell()
        return True

    async def _take_from(self, leg: Leg) -> None:
        while data := await leg.read(READ_SIZE):
            if leg is not self._line.leg:
                return  # it was lost meanwhile: the peer sends this again
            self._take(len(data))
            if not await self._deliver(data):
                return
            self.see_end()
            self._line.settle()
        if leg is self._line.leg:
            self._finished()
            await leg.over.wait()

    def _take(self, count: int) -> None:
        self._state.take(count, self._loop.time())
        final = self._state.peer_final
        if final is not None and self._state.taken > final:
            raise RemoteProtocolError(f"the peer sends on behind its end at byte {final}")
        self._teller.arm()

    async def _deliver(self, data: bytes) -> bool:
        """Give the application ``data``; whether it takes more."""
        try:
            await self._loop.sock_sendall(self._socket, data)
        except BrokenPipeError as gone:  # ECONNRESET where it had not ended its direction
            self._line.undelivered = gone
            if self._line.leg:
                self._line.leg.carrier.stop(ErrorCode.CANCELLED)
            self._line.settle()
            return False
        self.received += len(data)
        self._counts.received(len(data))
        return True

    def _finished(self) -> None:
        """The peer's direction of the leg has ended by FIN."""
        self._line.ends.fin_read = True
        if not self._state.end_of_leg():
            self._state.peer_final = self._state.taken
        if not self.see_end():
            self._teller.tell()  # whoever reads a FIN does
        self._line.settle()

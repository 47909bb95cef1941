"""The bridge between a TCP socket and a stream that outlives its legs.

Words: see ``bridge`` and ``leg``. *Upload* is from the socket to the stream, *download* back.
The stream is *done* for us when the peer has acknowledged all we sent, and the application has
all of the peer's bytes and its end. Then it *lingers* until the peer is done, too.

The end of a direction is told by the final position in a checkpoint, and FIN on a leg says
that we are done: so the legs, and with them the way of checkpoints, last as long as anybody
still needs an acknowledgement, and whoever loses one is told. A peer's FIN without a final
position before it is the end of its direction, too.

Invariants: those of ``bridge``, and: between the loss of a leg and the next leg no position
changes. Bytes are taken from the socket only when the ring has room for them.

Source: protocol.md sections 1, 5 and 6; docs/decisions/0010-fin-comes-last.md.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio import TaskGroup, TimerHandle

from outrelay.agent.bridge import CHUNK, Counts
from outrelay.agent.resume.leg import Leg, Legs
from outrelay.agent.resume.rings import Rings
from outrelay.agent.sockets import readable
from outrelay.agent.watch import AbortWatch, Guard
from outrelay.lib.errors import (
    Closed,
    ErrorCode,
    OutRelayError,
    RemoteProtocolError,
    Reset,
    ResumeError,
)
from outrelay.lib.observe import logs
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.resume.state import Checkpoint, StreamState
from outrelay.lib.tasks import spawn
from outrelay.lib.transport.carrier import READ_SIZE

log = logs.get_logger(__name__)

AHEAD = 256 * 1024
"""Bytes that wait for the leg; then the socket is not read."""

LINGER = 30.0
"""Seconds a stream that is done waits for its peer."""


class LastingBridge:
    """Joins ``sock`` with a stream, whatever carries that.

    Args:
        sock: Connected and non-blocking; closed by the caller.
        leg: The first.
        watch: Notices when the application aborts.
        legs: Gives the next ones.
        rings: Hold what is not acknowledged.
        limit: Seconds that getting another leg may take.
        counts: Told what happens.
    """

    def __init__(
        self,
        sock: socket.socket,
        leg: Leg,
        watch: AbortWatch,
        legs: Legs,
        rings: Rings,
        limit: float,
        counts: Counts,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._watch = watch
        self._legs = legs
        self._limit = limit
        self._rings = rings
        self._counts = counts
        self._state = StreamState(rings.new(), self._loop.time())
        self._first = leg
        self._leg: Leg | None = None
        self._up = asyncio.Event()  # there is a leg
        self._unsent = asyncio.Event()  # the sender has something to do
        self._room = asyncio.Event()  # the reader may have room
        self._timer: TimerHandle | None = None
        self._timer_at = 0.0
        self._unread: Reset | None = None  # how the peer refused our direction
        self._undelivered: OSError | None = None  # how the application refused the peer's
        self._failure: OutRelayError | OSError | None = None
        self._over = asyncio.Event()
        self._is_done = False
        self._lingering: TimerHandle | None = None
        self.sent = 0
        """Bytes of the application that the stream has taken."""
        self.received = 0
        """Bytes of the stream that the application has taken."""
        self._delivered = False  # all of the peer's, and its end

    # ---- the whole -----------------------------------------------------------------------

    async def run(self) -> None:
        """Pass bytes until both directions have ended and the peer has everything.

        Raises:
            Reset: The peer abandoned a direction.
            ResumeError: A leg was lost, and no other one could be had.
            RemoteProtocolError: The peer said what no honest one says.
            OSError: The application aborted, or its socket broke.
        """
        try:
            with self._watch.guard(self._socket) as guard:
                self._guard = guard
                async with TaskGroup() as group:
                    work = [
                        spawn(group, self._read(guard), name="agent: upload"),
                        spawn(group, self._send(), name="agent: send"),
                        spawn(group, self._receive(), name="agent: download"),
                    ]
                    await self._keep()
                    for each in work:
                        each.cancel()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self._state.release()
            self._rings.freed()
            for timer in (self._timer, self._lingering):
                if timer:
                    timer.cancel()
        if self._failure:
            raise self._failure
        self.abandon(ErrorCode.CANCELLED)  # which changes nothing where both ended by FIN

    def abandon(self, code: ErrorCode) -> None:
        """End what has not ended."""
        leg, self._leg = self._leg or self._first, None
        leg.abandon(code)

    async def _keep(self) -> None:
        """Have a leg until the stream is over."""
        leg, told = self._first, None
        while not self._over.is_set():
            self._attach(leg, told)
            await self._until_over(leg)
            if self._over.is_set():
                return
            try:
                leg, told = await self._another()
            except (ResumeError, Reset):
                if not self._is_done:
                    raise
                return
        leg.abandon(ErrorCode.CANCELLED)

    async def _until_over(self, leg: Leg) -> None:
        """Return when the leg is lost, or the stream is over."""
        try:
            await leg.carrier.wait_finished()
        except (Reset, Closed) as error:
            self._not_written(leg, error)
        await leg.over.wait()

    async def _another(self) -> tuple[Leg, Checkpoint]:
        """Another leg, and where the peer is; less is done for a stream that only lingers."""
        since = self._loop.time()
        at = Checkpoint(my_position=self._state.sent, peer_ack_position=self._state.taken)
        leg, told = await self._legs.another(at, LINGER if self._is_done else self._limit)
        pause = f"{self._loop.time() - since:.3f} s"
        log.info("stream resumed", stream_id=f"{self._legs.claim.stream_id:016x}", pause=pause)
        return leg, told

    def _attach(self, leg: Leg, told: Checkpoint | None) -> None:
        """Go on with ``leg``, from where the peer is."""
        self._leg = leg
        if told:
            again = [*self._state.resume(told)]
            self._rings.freed()
            if not self._unread:
                leg.queue(again)
        if self._undelivered:
            leg.carrier.stop(ErrorCode.CANCELLED)
        leg.carried.attach(self)
        self._up.set()
        self._room.set()
        self._tell()
        self._settle()

    def _lose(self, leg: Leg) -> None:
        """Nothing of ``leg`` is read or written any more."""
        if self._leg is leg and not self._over.is_set():
            self._leg = None
            self._up.clear()
            leg.abandon(ErrorCode.LEG_LOST)
            self._unsent.set()

    def _end(self, failure: OutRelayError | OSError | None = None) -> None:
        """The stream is over, without the peer's consent."""
        self._over.set()
        self._failure = self._failure or failure
        if leg := self._leg:
            leg.carrier.reset(_code(failure))
            leg.over.set()

    # ---- what the session says -----------------------------------------------------------

    def checkpoint(self, told: orp.StreamCheckpoint) -> None:
        """See ``carried.Holder``."""
        if self._leg is None or self._over.is_set():
            return
        checkpoint = Checkpoint(
            my_position=told.my_position,
            peer_ack_position=told.peer_ack_position,
            final_position=told.final_position if told.HasField("final_position") else None,
        )
        try:
            if self._state.receive(checkpoint):
                self._rings.freed()
                self._room.set()
            self._check_end()
        except (RemoteProtocolError, OSError) as error:
            self._end(error)
        self._settle()

    def move(self) -> None:
        """See ``carried.Holder``."""
        if self._leg:
            self._lose(self._leg)

    # ---- upload --------------------------------------------------------------------------

    async def _read(self, guard: Guard) -> None:
        """From the socket to the ring, and to the leg."""
        sock = self._socket
        while True:
            leg = await self._has_room()
            try:
                data = sock.recv(min(CHUNK, self._state.room))
            except (BlockingIOError, InterruptedError):
                await readable(sock)
                continue  # there may be less room by now
            if not data:
                break
            self._state.send(data)
            leg.queue((data,))
            self._unsent.set()
            self.sent += len(data)
            self._counts.sent(len(data))
            self._arm()
        await asyncio.sleep(0)  # see Bridge
        guard.check()
        self._state.finish(self._loop.time())
        self._counts.fin()
        self._tell()
        self._settle()

    async def _has_room(self) -> Leg:
        """The leg, once bytes may be taken for it."""
        while True:
            leg = self._leg
            if leg and leg.waiting < AHEAD and self._state.room and not self._unread:
                return leg
            self._room.clear()
            with self._rings.waiting(self._room):
                await self._room.wait()

    async def _send(self) -> None:
        """What is unsent, to whichever leg there is."""
        while not self._over.is_set():
            leg = await self._attached()
            try:
                await self._feed(leg)
            except (Reset, Closed) as error:
                self._not_written(leg, error)
            await leg.over.wait()

    async def _feed(self, leg: Leg) -> None:
        while not leg.over.is_set():
            while leg.unsent:
                chunk = leg.unsent.popleft()
                await leg.carrier.write(chunk)
                leg.waiting -= len(chunk)
                self._room.set()
            self._unsent.clear()
            await self._unsent.wait()

    def _not_written(self, leg: Leg, error: Reset | Closed) -> None:
        """The leg takes no more."""
        if leg is not self._leg or self._over.is_set():
            return
        if _is_lost(error):
            self._lose(leg)
        elif self._is_done:
            self._end()
        elif isinstance(error, Reset):  # the other direction may still be whole
            self._unread = self._unread or error
            leg.unsent.clear()
            self._settle()

    # ---- download ------------------------------------------------------------------------

    async def _receive(self) -> None:
        """From whichever leg there is to the socket."""
        while not (self._over.is_set() or self._undelivered):
            leg = await self._attached()
            try:
                await self._take_from(leg)
            except (Reset, Closed) as error:
                if leg is not self._leg:
                    continue
                if _is_lost(error):
                    self._lose(leg)
                elif self._is_done:
                    self._end()
                else:
                    raise

    async def _take_from(self, leg: Leg) -> None:
        while data := await leg.read(READ_SIZE):
            if leg is not self._leg:
                return  # it was lost meanwhile: the peer sends this again
            self._take(len(data))
            try:
                await self._loop.sock_sendall(self._socket, data)
            except BrokenPipeError as gone:  # ECONNRESET where it had not ended its direction
                self._undelivered = gone
                if self._leg:
                    self._leg.carrier.stop(ErrorCode.CANCELLED)
                self._settle()
                return
            self.received += len(data)
            self._counts.received(len(data))
            self._check_end()
            self._settle()
        if leg is not self._leg:
            return
        leg.finished = True
        if not self._state.end_of_leg():
            self._state.peer_final = self._state.taken
        self._check_end()
        self._settle()
        await leg.over.wait()

    def _take(self, count: int) -> None:
        self._state.take(count, self._loop.time())
        final = self._state.peer_final
        if final is not None and self._state.taken > final:
            raise RemoteProtocolError(f"the peer sends on behind its end at byte {final}")
        self._arm()

    def _check_end(self) -> None:
        """End the socket's direction once everything is in it."""
        if self._delivered or self._undelivered or self.received != self._state.peer_final:
            return
        self._delivered = True
        self._guard.release()
        self._socket.shutdown(socket.SHUT_WR)
        self._counts.fin()
        self._tell()

    # ---- common --------------------------------------------------------------------------

    async def _attached(self) -> Leg:
        while (leg := self._leg) is None:
            await self._up.wait()
        return leg

    def _settle(self) -> None:
        """See whether the stream is done, or over."""
        sent = self._state.final is not None and self._state.all_acknowledged
        if (
            self._over.is_set()
            or not (sent or self._unread)
            or not (self._delivered or self._undelivered)
        ):
            return
        if failure := self._unread or self._undelivered:
            self._end(failure)
            return
        if not self._is_done:
            self._is_done = True
            self._lingering = self._loop.call_later(LINGER, self._end)
        if leg := self._leg:
            leg.carrier.finish()  # all that was written to it has arrived
            if leg.finished:
                self._over.set()
                leg.over.set()

    def _tell(self) -> None:
        """Send a checkpoint now."""
        if self._leg is None:
            return
        now = self._state.checkpoint(self._loop.time())
        message = orp.StreamCheckpoint(
            stream_id=self._legs.claim.stream_id,
            my_position=now.my_position,
            peer_ack_position=now.peer_ack_position,
            final_position=now.final_position,
        )
        self._leg.session.post(message)
        self._arm()

    def _arm(self) -> None:
        """Send the next checkpoint when it is due."""
        due = self._state.due_at()
        if due is None or (self._timer and self._timer_at <= due):
            return
        if self._timer:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        due = self._state.due_at()
        if due is not None and due <= self._loop.time():
            self._tell()  # without a leg: the next one begins with it
        elif due is not None:
            self._arm()


def _is_lost(error: Reset | Closed) -> bool:
    return isinstance(error, Closed) or error.code is ErrorCode.LEG_LOST


def _code(failure: OutRelayError | OSError | None) -> ErrorCode:
    """The code to end our direction with."""
    code = failure.code if isinstance(failure, Reset | RemoteProtocolError) else ErrorCode.NONE
    return code or ErrorCode.CANCELLED

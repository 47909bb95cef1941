"""The bridge between a TCP socket and a stream that outlives its legs.

Words: see ``bridge`` and ``leg``. *Upload* is from the socket to the stream, *download* back.

Invariants: those of ``bridge`` and of the parts; the stream has at most one leg, and whoever
waits for something is told when the stream is over.

Source: protocol.md sections 1, 5 and 6; docs/decisions/0010-the-second-fin-waits.md.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio import TaskGroup

from outrelay.agent.bridge import Counts
from outrelay.agent.resume.download import Download
from outrelay.agent.resume.lasting import Lasting
from outrelay.agent.resume.leg import Leg, Legs
from outrelay.agent.resume.line import LINGER, Line
from outrelay.agent.resume.teller import Teller
from outrelay.agent.resume.upload import Upload
from outrelay.agent.watch import AbortWatch
from outrelay.lib.errors import Closed, ErrorCode, RemoteProtocolError, Reset, ResumeError
from outrelay.lib.observe import logs
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.resume.state import Checkpoint, StreamState
from outrelay.lib.tasks import spawn

log = logs.get_logger(__name__)


class LastingBridge:
    """Joins ``sock`` with a stream, whatever carries that.

    Args:
        sock: Connected and non-blocking; closed by the caller.
        leg: The first; it may be lost already.
        watch: Notices when the application aborts.
        legs: Gives the next ones.
        lasting: What it shares with others.
        counts: Told what happens.
    """

    def __init__(
        self,
        sock: socket.socket,
        leg: Leg,
        watch: AbortWatch,
        legs: Legs,
        lasting: Lasting,
        counts: Counts,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._leg = leg
        self._had_leg = False
        self._legs = legs
        self._lasting = lasting
        self._rings = rings = lasting.rings
        self._trying: asyncio.Timeout | None = None
        self._line = line = Line(
            StreamState(rings.new(), self._loop.time()), is_consumer=legs.claim.is_consumer
        )
        self._teller = Teller(line, legs.claim.stream_id)
        self._guard = watch.guard(sock)
        self._upload = Upload(line, sock, rings, self._teller, counts)
        self._download = Download(line, sock, self._teller, counts, self._guard)

    @property
    def sent(self) -> int:
        """Bytes of the application that the stream has taken."""
        return self._line.state.sent

    @property
    def received(self) -> int:
        """Bytes of the stream that the application has taken."""
        return self._download.received

    async def run(self) -> None:
        """Pass bytes until both directions have ended and the peer has everything.

        Raises:
            Reset: The peer abandoned a direction.
            ResumeError: A leg was lost, and no other one could be had.
            RemoteProtocolError: The peer said what no honest one says.
            OSError: The application aborted, or its socket broke.
        """
        self._lasting.streams.add(self)
        try:
            with self._guard:
                async with TaskGroup() as group:
                    work = [
                        spawn(group, self._upload.run(self._guard), name="agent: upload"),
                        spawn(group, self._download.run(), name="agent: download"),
                    ]
                    await self._keep()
                    for each in work:
                        each.cancel()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self._lasting.streams.discard(self)
            self._line.end()
            self._teller.stop()
            self._line.state.release()
            self._rings.freed()
        if self._line.failure:
            raise self._line.failure
        self._lasting.finished.add(self._legs.claim, self._line.position)
        self._leg.abandon(ErrorCode.CANCELLED)  # which changes nothing where both ended by FIN

    def abandon(self, code: ErrorCode) -> None:
        """End what has not ended; the far agent is told even if there is no leg just now."""
        self._lasting.finished.add(self._legs.claim, self._line.position, code)
        self._leg.abandon(code)

    # ---- legs ----------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Have a leg until the stream is over."""
        told = None
        while True:
            if not self._leg.over.is_set():
                self._attach(told)
                await self._until_lost()
            if self._line.over.is_set():
                return
            try:
                self._leg, told = await self._another()
            except (ResumeError, Reset, TimeoutError):
                if not self._line.ends.may_be_left:
                    raise
                return

    def _attach(self, told: Checkpoint | None) -> None:
        """Go on with the leg, from where the peer is."""
        if told:
            again = self._line.state.resume(told)
            if not self._line.unread:
                self._leg.again.extend(again)
            self._rings.freed()
        self._had_leg = True
        self._line.attach(self._leg)
        self._leg.carried.attach(self)
        self._teller.tell()
        self._line.settle()

    async def _until_lost(self) -> None:
        """Return when the leg is lost, or the stream is over."""
        leg = self._leg
        try:
            await leg.carrier.wait_finished()
            if leg is self._line.leg:
                self._line.ends.passed()
                self._line.settle()
        except (Reset, Closed) as error:
            self._line.not_written(leg, error)
        await leg.over.wait()

    async def _another(self) -> tuple[Leg, Checkpoint]:
        """Another leg, and where the peer is.

        A stream that may be left, or was never announced, is tried for a shorter time.
        """
        since, claim = self._loop.time(), self._legs.claim
        is_short = self._line.ends.may_be_left or not self._had_leg
        limit = min(self._lasting.limit, LINGER) if is_short else self._lasting.limit
        try:
            async with asyncio.timeout(None) as self._trying:
                self._leave_if_done()
                leg, told = await self._legs.another(self._line.position, limit)
        except (ResumeError, Reset, RemoteProtocolError, TimeoutError) as error:
            self._lasting.metrics.resumes.labels(_result(error)).inc()
            raise
        finally:
            self._trying = None
        pause = self._loop.time() - since
        self._lasting.metrics.resumes.labels("resumed").inc()
        self._lasting.metrics.resume_pause.observe(pause)
        log.info("stream resumed", stream_id=claim.name, side=claim.side, pause=f"{pause:.3f} s")
        return leg, told

    def leave(self) -> None:
        """See ``lasting.Leaver``."""
        self._line.leave()
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        """Try no longer for a leg that nobody needs."""
        ends = self._line.ends
        if self._trying and self._line.is_leaving and ends.is_done and ends.answered:
            self._trying.reschedule(self._loop.time())

    # ---- what the session says -----------------------------------------------------------

    def checkpoint(self, told: orp.StreamCheckpoint) -> None:
        """See ``carried.Holder``."""
        if self._line.leg is None or self._line.over.is_set():
            return
        checkpoint = Checkpoint(
            my_position=told.my_position,
            peer_ack_position=told.peer_ack_position,
            final_position=told.final_position if told.HasField("final_position") else None,
        )
        try:
            if self._line.state.receive(checkpoint):
                self._rings.freed()
            self._line.ends.hear()
            self._download.see_end()
        except (RemoteProtocolError, OSError) as error:
            self._line.end(error)
        self._teller.arm()
        self._line.settle()

    def move(self) -> None:
        """See ``carried.Holder``."""
        if self._line.leg:
            self._line.lose(self._line.leg)


def _result(error: Exception) -> str:
    """The metrics' name for why there is no other leg."""
    match error:
        case ResumeError():
            return error.why.value
        case TimeoutError():
            return "left"
        case _:
            return "reset"

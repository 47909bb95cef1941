"""One stream's life at the agent, the same for both roles.

Words: the *consumer* opens the stream for its application, the *provider* serves it from its
backend; here both are the *local end*. Bytes are *held* between the stream's opening and
STREAM_READY.

Invariants: nothing that came before STREAM_READY reaches the local end before it, and what
turns out to be a STREAM_REJECT never does. A stream that ends otherwise than by FIN both
ways ends at the local end with an RST.

Source: protocol.md sections 1 and 5.
"""

from __future__ import annotations

import asyncio
import socket
import time
from asyncio import CancelledError
from dataclasses import dataclass, replace
from enum import StrEnum

from outrelay.agent.bridge import Bridge, Counts
from outrelay.agent.resume.bridge import LastingBridge
from outrelay.agent.resume.lasting import Lasting
from outrelay.agent.resume.leg import Claim, Leg, Legs
from outrelay.agent.session.carried import Carried, Ready
from outrelay.agent.session.session import Session
from outrelay.agent.sockets import abort, close, fault
from outrelay.agent.watch import AbortWatch
from outrelay.lib.errors import (
    Closed,
    ErrorCode,
    ProtocolError,
    RejectCode,
    RemoteProtocolError,
    Reset,
    ResumeError,
    StreamRejected,
    TransportError,
    Why,
)
from outrelay.lib.observe import logs
from outrelay.lib.observe.metrics import StreamMetrics
from outrelay.lib.observe.views import Json
from outrelay.lib.orp.frame import FrameDecoder
from outrelay.lib.orp.fsm import StreamInput, StreamState, next_state
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.resume.state import Checkpoint
from outrelay.lib.tasks import beside
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.transport.frames import message_of

log = logs.get_logger(__name__)

HELD_MOST = 64 * 1024
"""Bytes held; what comes after them waits in the carrier."""

LATE_READY = 1.0
"""Seconds that STREAM_READY has to catch up with a stream that has already ended: the two
travel on streams that are not ordered against each other."""


LONGEST_REASON = 512
"""Characters of a relay's reason that are told."""

LOST_EARLY = frozenset({ErrorCode.LEG_LOST, ErrorCode.DRAIN})
"""Codes of a reset before STREAM_READY that say nothing against the stream."""

_WHY = {
    ErrorCode.DENIED: Why.POLICY,
    ErrorCode.DRAIN: Why.STOPPED,
    ErrorCode.EXPIRED: Why.WINDOW,
    ErrorCode.NOT_RESUMABLE: Why.GONE,
}
"""What a reset from the far end says about why the stream did not last."""

_RESETS = {ErrorCode.DENIED: RejectCode.DENIED, ErrorCode.LIMIT: RejectCode.LIMIT}
"""What a reset before STREAM_READY stands for; any other: unreachable."""


class Side(StrEnum):
    """Which end of a stream an agent is, and what its local end is called."""

    CONSUMER = "application"
    PROVIDER = "backend"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a stream ended.

    Args:
        code: NONE when both directions ended by FIN.
        reason: The same for people.
        why: Why the stream did not outlive its connection, if that was it.
    """

    code: ErrorCode
    reason: str
    why: Why | None = None

    @property
    def label(self) -> str:
        """The metrics' name for it."""
        return self.code.name.lower() if self.code else "closed"


FINISHED = Ending(ErrorCode.NONE, "finished")


class AgentStream:
    """A stream and the frames before it.

    Args:
        session: What it begins in.
        carried: Its place in that.
        carrier: What carries it; nobody else uses it.
        side: Whether the application is at our end, or the backend.
        stream_id: The consumer's number.
        service: What it leads to.
        method: What is wanted of that; may be empty.
        peer: The agent at the far end, as far as it is known yet.
        metrics: Counts it.
    """

    def __init__(
        self,
        session: Session,
        carried: Carried,
        carrier: Stream,
        side: Side,
        *,
        stream_id: int,
        service: str,
        method: str = "",
        peer: str = "",
        metrics: StreamMetrics,
    ) -> None:
        self.session = session
        self.carried = carried
        self.carrier = carrier
        self.side = side
        self.stream_id = stream_id
        self.service = service
        self.method = method
        self.peer = peer
        self.state = StreamState.INIT
        self._metrics = metrics
        self._held = bytearray()
        self._carrying: Bridge | LastingBridge | None = None
        self._opened_ms = 0
        self._ready: orp.StreamReady | None = None
        self._is_lost = False
        self._why_not: Why | None = None

    @property
    def name(self) -> str:
        """The id as logs and audit have it."""
        return f"{self.stream_id:016x}"

    def advance(self, event: StreamInput) -> None:
        """Note what happened to the stream."""
        self.state = next_state(self.state, event)

    async def until_ready(self, limit: float, *, is_plain: bool, held: bytes = b"") -> None:
        """Hold what arrives until the relay has spliced the stream.

        Args:
            limit: Seconds to wait for it.
            is_plain: The relay may never send it: go on as if it had come.
            held: What arrived behind the last frame.

        Raises:
            StreamRejected: The stream was refused instead, or READY did not come.
            Closed: The connection is gone.
            Reset: The far agent's is, or the relay leaves: nothing speaks against the stream.
        """
        self._held += held
        try:
            async with beside(self._hold(), name="agent: hold"):
                answer = await _within(self.carried, limit)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        if isinstance(answer, Closed | StreamRejected):
            raise answer
        if answer is None and not is_plain:
            reason = f"the relay did not announce the stream within {limit:g} s"
            raise StreamRejected(RejectCode.TIMEOUT, reason)
        if answer is not None:
            self._ready = answer
            self.peer = answer.peer_agent_uri or self.peer
        if self.state is StreamState.OPENING:
            self.advance(StreamInput.ACCEPT)
        self.advance(StreamInput.SPLICE)

    async def carry(self, sock: socket.socket, watch: AbortWatch, lasting: Lasting) -> None:
        """Join the stream with ``sock`` until both directions have ended; ``sock`` is closed.

        Args:
            sock: The local end's connection.
            watch: Notices when the local end aborts.
            lasting: Lets it outlive its connection, where that is possible.
        """
        metrics = self._metrics
        bridge = self._carrying = self._bridge(sock, watch, lasting)
        self._opened_ms = time.time_ns() // 1_000_000
        side = self.side.name.lower()
        line = log.bind(stream_id=self.name, side=side, service=self.service, peer=self.peer)
        if self.method:
            line = line.bind(method=self.method)
        line.info("stream opened")
        metrics.opened.inc()
        ending = FINISHED
        try:
            with metrics.open.track_inprogress():
                await bridge.run()
            close(sock)
        except (TransportError, ProtocolError, ResumeError, OSError, CancelledError) as error:
            ending = self._ending(error)
            self.advance(StreamInput.RESET)
            bridge.abandon(ending.code)
            abort(sock)
            if isinstance(error, CancelledError):
                raise
        finally:
            metrics.ended.labels(ending.label).inc()
            up, down = self._bytes()
            if ending.why:
                line = line.bind(why=ending.why)
            line.info("stream ended", reason=ending.reason, bytes_up=up, bytes_down=down)
            self._carrying = None  # it knows us: no circle is left for the garbage collector

    def describe(self) -> Json:
        """What there is to see of it."""
        up, down = self._bytes()
        return {
            "stream_id": self.name,
            "side": self.side.name.lower(),
            "service": self.service,
            "method": self.method or None,
            "peer": self.peer or None,
            "opened_unix_ms": self._opened_ms or None,
            "path": "relayed",
            "bytes_up": up,
            "bytes_down": down,
        }

    def _bytes(self) -> tuple[int, int]:
        """How many went up and down."""
        if self._carrying is None:
            return 0, 0
        sent, received = self._carrying.sent, self._carrying.received
        return (sent, received) if self.side is Side.CONSUMER else (received, sent)

    def _ending(self, error: BaseException) -> Ending:
        """What ``error`` has made of the stream: not every one outlives its connection."""
        ending = _ending(error, self.side)
        if self._why_not and ending.code is ErrorCode.LEG_LOST:
            return replace(ending, code=ErrorCode.NOT_RESUMABLE, why=self._why_not)
        return ending

    def leave_leg(self, lasting: Lasting) -> bool:
        """Go on without the leg that was lost before STREAM_READY, if that is possible.

        The consumer may have got STREAM_READY, and then comes for its stream. If so it sends
        again what was held here.
        """
        if not lasting.may_last(self._claim(), self.session):
            return False
        self._held.clear()
        self._is_lost = True
        self.advance(StreamInput.SPLICE)
        return True

    def give_up(self, lasting: Lasting) -> None:
        """Leave a stream that is not carried yet; a provider that keeps it for us is told."""
        self.abandon(ErrorCode.CANCELLED)
        lasting.finished.add(
            self._claim(), Checkpoint(my_position=0, peer_ack_position=0), ErrorCode.CANCELLED
        )

    def abandon(self, code: ErrorCode) -> None:
        """End both directions of a stream that is not carried yet."""
        self.advance(StreamInput.RESET)
        self.carrier.reset(code)
        self.carrier.stop(code)

    def _bridge(
        self, sock: socket.socket, watch: AbortWatch, lasting: Lasting
    ) -> Bridge | LastingBridge:
        """What joins the stream with ``sock``."""
        is_consumer = self.side is Side.CONSUMER
        sent, received = self._metrics.bytes_up.inc, self._metrics.bytes_down.inc
        counts = Counts(
            fin=lambda: self.advance(StreamInput.FIN),
            sent=sent if is_consumer else received,
            received=received if is_consumer else sent,
        )
        held, self._held = bytes(self._held), bytearray()
        claim = self._claim()
        if not self._is_lost:
            self._why_not = lasting.why_not(claim, self.session, self._ready)
        if self._why_not:
            return Bridge(sock, self.carrier, watch, held, counts)
        leg = Leg(self.carrier, self.session, self.carried, held)
        if self._is_lost:
            leg.abandon(ErrorCode.LEG_LOST)
        return LastingBridge(sock, leg, watch, Legs(lasting.uplink, claim), lasting, counts)

    def _claim(self) -> Claim:
        """What we would say of the stream after a loss."""
        return Claim(
            stream_id=self.stream_id,
            peer=self.peer,
            service=f"{self.service}/{self.method}" if self.method else self.service,
            is_consumer=self.side is Side.CONSUMER,
        )

    async def _hold(self) -> None:
        """Take what arrives until it is enough; a consumer's stream that ends was refused."""
        try:
            while len(self._held) < HELD_MOST:
                data = await self.carrier.read(HELD_MOST - len(self._held))
                if not data:
                    break
                self._held += data
            else:
                return
        except Reset as reset:
            if reset.code in LOST_EARLY:
                raise
            code = _RESETS.get(reset.code, RejectCode.UNREACHABLE)
            reason = f"the relay reset the stream ({reset.code.name})"
            raise StreamRejected(code, reason) from reset
        if self.side is Side.CONSUMER:
            raise await self._refusal()

    async def _refusal(self) -> StreamRejected:
        """What the held bytes say, once it is certain that they are no application's."""
        try:
            return parse_reject(bytes(self._held))
        except RemoteProtocolError:
            await asyncio.sleep(LATE_READY)  # cancelled when READY comes after all
            reason = "the relay ended the stream without saying why"
            return StreamRejected(RejectCode.UNREACHABLE, reason)


def parse_reject(data: bytes) -> StreamRejected:
    """The refusal that a whole stream of ``data`` is.

    Raises:
        RemoteProtocolError: It is anything but one STREAM_REJECT frame.
    """
    decoder = FrameDecoder()
    decoder.receive_data(data)
    frame = decoder.next_frame()
    decoder.end()
    if frame is None or frame.type != FrameType.STREAM_REJECT:
        raise RemoteProtocolError("not a STREAM_REJECT")
    reject = message_of(frame, orp.StreamReject)
    return StreamRejected(reject.code, reject.reason[:LONGEST_REASON])


async def _within(carried: Carried, limit: float) -> Ready | None:
    try:
        async with asyncio.timeout(limit):
            return await carried.ready
    except TimeoutError:
        return None


def _ending(error: BaseException, side: Side) -> Ending:
    match error:
        case Reset():
            reason = f"reset from the far end ({error.code.name})"
            return Ending(error.code or ErrorCode.CANCELLED, reason, _WHY.get(error.code))
        case Closed():
            return Ending(ErrorCode.LEG_LOST, f"relay: {error}")
        case ResumeError():
            return Ending(error.code, str(error), error.why)
        case RemoteProtocolError():
            return Ending(error.code, str(error))
        case OSError():
            return Ending(ErrorCode.CANCELLED, f"{side}: {fault(error)}")
        case _:
            return Ending(ErrorCode.DRAIN, "the agent stops", Why.STOPPED)

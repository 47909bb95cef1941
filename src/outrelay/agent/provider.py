"""The provider's part: a connection to a backend for every stream the relay opens.

Source: protocol.md section 5.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable

from outrelay.agent.options import Expose, Limits
from outrelay.agent.resume.lasting import Lasting
from outrelay.agent.session.session import Session
from outrelay.agent.sockets import abort, connect
from outrelay.agent.stream import AgentStream, Side
from outrelay.agent.streams import Streams
from outrelay.agent.watch import AbortWatch
from outrelay.lib.errors import (
    Closed,
    ErrorCode,
    ProtocolError,
    Refused,
    RejectCode,
    Reset,
    StreamRejected,
    TransportError,
)
from outrelay.lib.observe import logs
from outrelay.lib.observe.metrics import StreamMetrics
from outrelay.lib.observe.throttle import Throttle
from outrelay.lib.orp.frame import encode
from outrelay.lib.orp.fsm import StreamInput, StreamState
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.transport.frames import FrameReader
from outrelay.lib.values import address_text

log = logs.get_logger(__name__)

LONGEST_NAME = 255
"""Characters of a relay's names that are logged, and of a service's that count."""


class Provider:
    """Joins streams from the relay with backends.

    Args:
        expose: The services and their backends.
        streams: All streams of the agent.
        watch: Notices backends that abort.
        lasting: Lets streams outlive their connection.
        limits: How long what may take.
        metrics: Counts streams.
    """

    def __init__(
        self,
        expose: Iterable[Expose],
        streams: Streams,
        watch: AbortWatch,
        lasting: Lasting,
        limits: Limits,
        metrics: StreamMetrics,
    ) -> None:
        self._targets = {each.service: each.target for each in expose}
        self._streams = streams
        self._watch = watch
        self._lasting = lasting
        self._limits = limits
        self._metrics = metrics
        self._throttle = Throttle()

    def take(self, session: Session, carrier: Stream) -> None:
        """Serve a stream that the relay opened."""
        is_full = self._streams.full
        work = self._serve(session, carrier, is_full=is_full)
        self._streams.start(work, name="agent: incoming stream")

    async def _serve(self, session: Session, carrier: Stream, *, is_full: bool) -> None:
        reader = FrameReader(carrier)
        try:
            async with asyncio.timeout(self._limits.open):
                incoming = await reader.expect(FrameType.INCOMING_STREAM, orp.IncomingStream)
        except (ProtocolError, TransportError, TimeoutError) as error:
            reason = str(error) or "no frame came"
            self._throttle.write(log.warning, "incoming stream dropped", reason=reason)
            carrier.reset(ErrorCode.PROTOCOL)
            carrier.stop(ErrorCode.PROTOCOL)
            return
        with session.stream(incoming.stream_id) as carried:
            stream = AgentStream(
                session,
                carried,
                carried.over(carrier),
                Side.PROVIDER,
                stream_id=incoming.stream_id,
                service=incoming.target_service[:LONGEST_NAME],
                method=incoming.method[:LONGEST_NAME],
                peer=incoming.source_agent_uri[:LONGEST_NAME],
                metrics=self._metrics,
            )
            stream.advance(StreamInput.OPEN)
            try:
                sock = await self._connect(stream, is_full=is_full)
            except StreamRejected as rejected:
                await self._reject(stream, rejected)
            else:
                await self._carry(stream, sock, held=reader.rest())
            finally:
                if stream.state is not StreamState.CLOSED:
                    stream.abandon(ErrorCode.CANCELLED)

    async def _connect(self, stream: AgentStream, *, is_full: bool) -> socket.socket:
        """A connection to the backend of a stream's service.

        Raises:
            StreamRejected: There is none, or it cannot be had now.
        """
        target = self._targets.get(stream.service)
        if target is None:
            raise StreamRejected(RejectCode.NOT_FOUND, "the provider does not expose this service")
        if self._streams.draining:
            raise StreamRejected(RejectCode.REJECTED, "the provider is stopping")
        if is_full:
            raise StreamRejected(RejectCode.LIMIT, "the provider has as many streams as it takes")
        limit = self._limits.backend
        try:
            async with asyncio.timeout(limit):
                sock = await connect(target)
        except TimeoutError:
            why = f"did not answer within {limit:g} s"
        except Refused as refused:
            why = f"cannot be reached: {refused.reason}"
        else:
            log.debug("backend connected", stream_id=stream.name, target=address_text(target))
            return sock
        self._throttle.write(
            log.warning,
            "backend failed",
            cause=stream.service,
            stream_id=stream.name,
            service=stream.service,
            target=address_text(target),
            reason=why,
        )
        raise StreamRejected(RejectCode.UNREACHABLE, f"the provider's backend {why}")

    async def _reject(self, stream: AgentStream, rejected: StreamRejected) -> None:
        """Tell the relay why, and end the stream once it knows."""
        self._throttle.write(
            log.warning,
            "incoming stream refused",
            cause=(rejected.code, self._targets.get(stream.service)),
            stream_id=stream.name,
            service=stream.service,
            peer=stream.peer,
            code=rejected.code,
            reason=rejected.reason,
        )
        self._metrics.ended.labels(str(int(rejected.code))).inc()
        reject = orp.StreamReject(code=rejected.code, reason=rejected.reason)
        try:
            async with asyncio.timeout(self._limits.open):
                await stream.carrier.write(encode(FrameType.STREAM_REJECT, reject))
                stream.carrier.finish()
                await stream.carrier.wait_finished()
        except (TransportError, TimeoutError) as error:
            self._throttle.write(
                log.info, "refusal not delivered", stream_id=stream.name, error=str(error)
            )

    async def _carry(self, stream: AgentStream, sock: socket.socket, *, held: bytes) -> None:
        """Accept the stream, wait until it is spliced, and join it with the backend."""
        is_plain = stream.session.is_plain or stream.stream_id == 0  # then READY may never come
        limit = self._limits.provider_ready if stream.stream_id else 0.0
        try:
            with self._watch.guard(sock):
                await stream.carrier.write(encode(FrameType.STREAM_ACCEPT, orp.StreamAccept()))
                stream.advance(StreamInput.ACCEPT)
                await self._until_ready(stream, limit, is_plain=is_plain, held=held)
            with self._streams.showing(f"{stream.name}/provider", stream.describe):
                await stream.carry(sock, self._watch, self._lasting)
        except (StreamRejected, TransportError, OSError) as error:
            self._throttle.write(
                log.warning,
                "stream given up",
                cause=stream.service,
                stream_id=stream.name,
                service=stream.service,
                reason=str(error),
            )
        finally:
            abort(sock)

    async def _until_ready(
        self, stream: AgentStream, limit: float, *, is_plain: bool, held: bytes
    ) -> None:
        """Wait until the stream is spliced, or lost so late that its consumer may come for it."""
        try:
            await stream.until_ready(limit, is_plain=is_plain, held=held)
        except (Closed, Reset) as error:
            if not stream.leave_leg(self._lasting):
                raise
            log.info("stream lost before it was ready", stream_id=stream.name, error=str(error))

"""The consumer's part: a stream for every connection of an application.

Source: protocol.md section 5.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from math import inf

from outrelay.agent import hints
from outrelay.agent.options import Consume, Limits
from outrelay.agent.resume.lasting import Lasting
from outrelay.agent.session.carried import Carried
from outrelay.agent.session.session import Session
from outrelay.agent.session.uplink import Uplink
from outrelay.agent.sockets import abort
from outrelay.agent.stream import AgentStream, Side
from outrelay.agent.streams import Streams
from outrelay.agent.watch import AbortWatch
from outrelay.lib.errors import Closed, ErrorCode, RejectCode, Reset, StreamRejected
from outrelay.lib.identity.uri import Identity
from outrelay.lib.observe import logs
from outrelay.lib.observe.metrics import StreamMetrics
from outrelay.lib.observe.throttle import Throttle
from outrelay.lib.orp.frame import encode
from outrelay.lib.orp.fsm import StreamInput
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp

log = logs.get_logger(__name__)

TRIES = 3
"""How many ids are drawn for a stream that others use."""

AGAIN = 0.1
"""Seconds until one is tried again that lost its provider."""

ANSWER_SLACK = 1.0
"""Seconds that a relay's own 504, due at the limit, has to arrive."""


class Consumer:
    """Opens streams and joins them with applications' connections.

    Args:
        identity: Ours.
        uplink: Gives the session.
        streams: All streams of the agent.
        watch: Notices applications that abort.
        lasting: Lets streams outlive their connection.
        limits: How long what may take.
        metrics: Counts streams.
    """

    def __init__(
        self,
        identity: Identity,
        uplink: Uplink,
        streams: Streams,
        watch: AbortWatch,
        lasting: Lasting,
        limits: Limits,
        metrics: StreamMetrics,
    ) -> None:
        self._identity = identity
        self._uplink = uplink
        self._streams = streams
        self._watch = watch
        self._lasting = lasting
        self._limits = limits
        self._metrics = metrics
        self._throttle = Throttle()

    def take(self, sock: socket.socket, consume: Consume) -> None:
        """Serve an application's new connection; ``sock`` is ours from now on."""
        if self._streams.full:
            self._refuse(consume, StreamRejected(RejectCode.LIMIT, "--max-streams is reached"))
            abort(sock)
        else:
            work = self._serve(sock, consume)
            self._streams.start(work, name=f"agent: stream to {consume.service}")

    async def _serve(self, sock: socket.socket, consume: Consume) -> None:
        try:
            await self._connect(sock, consume)
        except StreamRejected as rejected:
            self._refuse(consume, rejected)
        except OSError:
            self._give_up(consume)
        finally:
            abort(sock)

    def _give_up(self, consume: Consume, stream_id: str = "") -> None:
        """Tell that an application did not wait; ``stream_id`` as in ``_refuse``."""
        self._throttle.write(
            log.info,
            "open given up",
            cause=consume,
            **consume.named(stream_id),
            reason="the application is gone",
        )

    def _refuse(self, consume: Consume, rejected: StreamRejected, stream_id: str = "") -> None:
        """Tell why an application's connection is closed; the application itself learns nothing.

        Args:
            consume: What it wanted.
            rejected: Why it does not get it.
            stream_id: The stream's, where there was one.
        """
        self._metrics.ended.labels(_label(rejected.code)).inc()
        self._throttle.write(
            log.warning,
            "open refused",
            cause=(consume, rejected.code),
            **consume.named(stream_id),
            code=rejected.code,
            reason=rejected.reason,
            hint=hints.for_open(rejected.code, caller=self._identity, consume=consume),
        )

    async def _connect(self, sock: socket.socket, consume: Consume) -> None:
        """Open a stream and carry it; what failed before it was spliced may be tried again.

        Raises:
            StreamRejected: No relay is connected.
            OSError: The application aborted while there was none, or as a stream was lost.
        """
        loop, ids, end = asyncio.get_running_loop(), 0, inf
        began = loop.time()
        while True:
            with self._watch.guard(sock):
                session = await self._uplink.session()
            with self._streams.new_id() as stream_id, session.stream(stream_id) as carried:
                name = f"{stream_id:016x}"
                log.debug("opening stream", **consume.named(name))
                try:
                    with self._watch.guard(sock) as guard:
                        stream = await open_stream(
                            session,
                            carried,
                            stream_id,
                            consume,
                            limits=self._limits,
                            metrics=self._metrics,
                            lasting=self._lasting,
                        )
                except (Closed, Reset) as lost:
                    guard.check()  # who has left at that moment is told of by nobody else
                    end = min(end, loop.time() + self._limits.ready)
                    if loop.time() >= end:
                        refusal = StreamRejected(RejectCode.UNREACHABLE, f"relay: {lost}")
                        return self._refuse(consume, refusal, name)
                    await self._after(session, lost)
                except StreamRejected as rejected:
                    ids += 1
                    if rejected.code != RejectCode.ID_IN_USE or ids == TRIES:
                        return self._refuse(consume, rejected, name)
                except OSError:
                    return self._give_up(consume, name)
                else:
                    self._metrics.open_duration.observe(loop.time() - began)
                    with self._streams.showing(f"{stream.name}/consumer", stream.describe):
                        return await stream.carry(sock, self._watch, self._lasting)

    async def _after(self, session: Session, lost: Closed | Reset) -> None:
        """Return when it is of use to try again what ``session`` has lost."""
        if isinstance(lost, Closed):
            await session.until_leaving()
        elif session.is_leaving:
            await self._uplink.session(lasting=True)
        else:
            await asyncio.sleep(AGAIN)


async def open_stream(
    session: Session,
    carried: Carried,
    stream_id: int,
    consume: Consume,
    *,
    limits: Limits,
    metrics: StreamMetrics,
    lasting: Lasting | None = None,
) -> AgentStream:
    """A stream that is spliced.

    Args:
        session: What it begins in.
        carried: Its place in that.
        stream_id: Its number.
        consume: What it leads to.
        limits: How long that may take.
        metrics: Counts it.
        lasting: Tells a provider that keeps a stream we have given up; None: nobody does.

    Raises:
        StreamRejected: It was refused.
        Closed: The connection is gone.
        Reset: The provider's is, or the relay leaves.
    """
    carrier = carried.over(await session.open_stream())
    stream = AgentStream(
        session,
        carried,
        carrier,
        Side.CONSUMER,
        stream_id=stream_id,
        service=consume.service,
        method=consume.method,
        metrics=metrics,
    )
    slack = 0.0 if session.is_plain else ANSWER_SLACK
    try:
        stream.advance(StreamInput.OPEN)
        with suppress(Reset):  # why the relay does not read on is what it has written
            message = orp.OpenStream(
                target_service=consume.service, method=consume.method, stream_id=stream_id
            )
            await carrier.write(encode(FrameType.OPEN_STREAM, message))
        await stream.until_ready(limits.ready + slack, is_plain=session.is_plain)
    except BaseException as error:
        if lasting is None or isinstance(error, StreamRejected):
            stream.abandon(ErrorCode.CANCELLED)
        else:
            stream.give_up(lasting)
        raise
    return stream


def _label(code: int) -> str:
    try:
        return str(int(RejectCode(code)))
    except ValueError:
        return "other"

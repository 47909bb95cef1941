"""A stream's place in a session: what the control stream says about the stream goes through it.

Words: a stream's *holder* is told of checkpoints and of a session that is left, once
there is one; what comes before waits.

Source: protocol.md sections 5 and 6.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from outrelay.agent.session.spoken import SpokenStream
from outrelay.lib.errors import Closed, ErrorCode, StreamRejected
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Stream

Ready = orp.StreamReady | StreamRejected | Closed
"""What whoever waits for STREAM_READY gets."""


class Holder(Protocol):
    """Whoever lets a stream outlive its connection. Neither call may wait or raise."""

    def checkpoint(self, told: orp.StreamCheckpoint) -> None:
        """The peer's checkpoint."""

    def move(self) -> None:
        """The connection has ended, or another one is up in its place."""


class Carried:
    """One stream in one session; made by ``Session.stream``.

    Args:
        forget: Called once, when the session carries the stream no longer.
        say: Tells the relay with which code we will reset the stream, where the carrier does not.
    """

    def __init__(
        self,
        forget: Callable[[Carried], None],
        say: Callable[[ErrorCode], None] | None = None,
    ) -> None:
        self.ready: Future[Ready] = asyncio.get_running_loop().create_future()
        """What STREAM_READY says, or how the connection ended before."""
        self._forget: Callable[[Carried], None] | None = forget
        self._say = say
        self._carrier: Stream | None = None
        self._holder: Holder | None = None
        self._missed: orp.StreamCheckpoint | None = None
        self._is_to_move = False
        self.on_move: Callable[[], None] | None = None
        """Called instead of the holder, as long as there is none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """The session carries the stream no longer. Idempotent."""
        forget, self._forget, self._holder = self._forget, None, None
        if forget:
            forget(self)

    def over(self, carrier: Stream) -> Stream:
        """The stream goes over ``carrier``, which is used as what this returns."""
        self._carrier = SpokenStream(carrier, self._say) if self._say else carrier
        return self._carrier

    def attach(self, holder: Holder) -> None:
        """Tell ``holder`` from now on, and of what it has missed."""
        self._holder = holder
        missed, self._missed = self._missed, None
        if missed:
            holder.checkpoint(missed)
        if self._is_to_move:
            holder.move()

    def announce(self, answer: Ready) -> None:
        """Tell whoever waits for STREAM_READY."""
        if not self.ready.done():
            self.ready.set_result(answer)

    def checkpoint(self, told: orp.StreamCheckpoint) -> None:
        """The peer's checkpoint has come."""
        if self._holder:
            self._holder.checkpoint(told)
        else:
            self._missed = told

    def explain(self, code: ErrorCode) -> None:
        """The relay will reset the stream with ``code``."""
        if self._carrier:
            self._carrier.explain(code)

    def move(self) -> None:
        """The connection has ended, or another one is up in its place."""
        self._is_to_move = True
        if self._holder:
            self._holder.move()
        elif self.on_move:
            self.on_move()

"""What the parts of a lasting stream share: its account, its leg, and how it ends.

Words: see ``leg`` and ``lib.resume.ends``. A leg is *attached* while bytes go over it.

Invariants: between the loss of a leg and the next leg no position changes. Once the stream is
over nothing starts again.

Source: protocol.md sections 5 and 6.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from collections.abc import Callable

from outrelay.agent.resume.leg import Leg
from outrelay.lib.errors import Closed, ErrorCode, OutRelayError, RemoteProtocolError, Reset
from outrelay.lib.resume.ends import Ends, Phase
from outrelay.lib.resume.state import Checkpoint, StreamState

SETTLE = 0.05
"""Seconds between being done and the FIN that says so: what acknowledges the peer's bytes takes
another way, and should be first."""

GRACE = 0.5
"""Seconds the last acknowledgements have after both directions of a leg have ended."""

LINGER = 40.0
"""Seconds a stream waits for its peer when our application lacks nothing any more: longer than a
half may wait at a relay."""


class Line:
    """One stream, as its parts see it.

    Args:
        state: Its account.
        is_consumer: Whether our application opened it.
    """

    def __init__(self, state: StreamState, *, is_consumer: bool) -> None:
        self.state = state
        self.ends = Ends(state, is_consumer=is_consumer)
        self.leg: Leg | None = None
        """The one attached."""
        self.over = asyncio.Event()
        """Set when the stream is."""
        self.failure: OutRelayError | OSError | None = None
        """Why it is over, when not because both directions have ended."""
        self.unread: Reset | None = None
        """How the peer refused our direction."""
        self.undelivered: OSError | None = None
        """How the application refused the peer's."""
        self.is_leaving = False
        """Whether the agent stops."""
        self.wake_upload: Callable[[], None] = _nothing
        """Called when whoever sends has to look again."""
        self._loop = asyncio.get_running_loop()
        self._attached = asyncio.Event()
        self._step: tuple[Phase, bool, bool] | None = None  # what was entered last
        self._timer: TimerHandle | None = None

    @property
    def position(self) -> Checkpoint:
        """Where we are, for a peer that has to know it."""
        return Checkpoint(my_position=self.state.sent, peer_ack_position=self.state.taken)

    async def attached(self) -> Leg:
        """The leg, as soon as there is one."""
        while (leg := self.leg) is None:
            await self._attached.wait()
        return leg

    def attach(self, leg: Leg) -> None:
        """Go on with ``leg``."""
        self.leg = leg
        if self.undelivered:
            leg.carrier.stop(ErrorCode.CANCELLED)
        self._step = None
        self._attached.set()
        self.wake_upload()

    def lose(self, leg: Leg) -> None:
        """Nothing of ``leg`` is read or written any more."""
        if self.leg is leg and not self.over.is_set():
            self.leg = None
            self.ends.lose_leg()
            self._attached.clear()
            self._cancel()
            leg.abandon(ErrorCode.LEG_LOST)
            self.wake_upload()

    def not_written(self, leg: Leg, error: Reset | Closed) -> None:
        """The leg takes no more."""
        if leg is not self.leg or self.over.is_set():
            return
        if _is_lost(error):
            self.lose(leg)
        elif self.ends.is_done:
            self.end()
        elif isinstance(error, Reset):  # the other direction may still be whole
            self.unread = self.unread or error
            self.settle()

    def not_read(self, leg: Leg, error: Reset | Closed) -> None:
        """The leg gives no more.

        Raises:
            Reset: The peer has abandoned its direction.
        """
        if leg is not self.leg or self.over.is_set():
            return
        if _is_lost(error):
            self.lose(leg)
        elif self.ends.is_done:
            self.end()
        else:
            raise error

    def finish(self) -> None:
        """Everything we have is on the leg: end our direction of it, if it is time."""
        if self.leg and self.ends.finishes_at_once:
            self._finish()
        self.settle()

    def settle(self) -> None:
        """See what the stream waits for now."""
        ends = self.ends
        if self.over.is_set():
            return
        if refused := self.unread or self.undelivered:
            if (ends.is_acknowledged or self.unread) and (ends.delivered or self.undelivered):
                self.end(refused)
            elif self.undelivered and ends.fin_sent and (leg := self.leg):
                self._cancel()  # nothing of the leg itself tells any more whether it is lost
                self._timer = self._loop.call_later(LINGER, self.lose, leg)
        elif self.leg and (step := (ends.phase, ends.fin_read, ends.answered)) != self._step:
            self._step = step
            self._cancel()
            self._enter(ends.phase)

    def leave(self) -> None:
        """The agent stops: wait no longer than somebody lacks something."""
        self.is_leaving = True
        self._step = None
        self.settle()

    def end(self, failure: OutRelayError | OSError | None = None) -> None:
        """The stream is over."""
        self._cancel()
        self.over.set()
        self.failure = self.failure or failure
        if leg := self.leg:
            if failure:
                leg.carrier.reset(_code(failure))
            leg.over.set()
        self.wake_upload()

    def _enter(self, phase: Phase) -> None:
        match phase:
            case Phase.SPENT if leg := self.leg:
                self._timer = self._loop.call_later(GRACE, self.lose, leg)
            case Phase.DONE:
                self._timer = self._loop.call_later(SETTLE, self._finish)
            case Phase.LINGERING if self.ends.fin_read and (leg := self.leg):
                self._timer = self._loop.call_later(GRACE, self.lose, leg)
            case Phase.LINGERING:
                nobody_needs_us = self.is_leaving and self.ends.answered
                delay = GRACE if nobody_needs_us else LINGER
                self._timer = self._loop.call_later(delay, self.end)
            case Phase.OVER:
                self.end()

    def _finish(self) -> None:
        if self.leg:
            self.leg.carrier.finish()
            self.ends.fin_sent = True
            self.settle()

    def _cancel(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


def _is_lost(error: Reset | Closed) -> bool:
    return isinstance(error, Closed) or error.code is ErrorCode.LEG_LOST


def _code(failure: OutRelayError | OSError) -> ErrorCode:
    """The code to end our direction with."""
    code = failure.code if isinstance(failure, Reset | RemoteProtocolError) else ErrorCode.NONE
    return code or ErrorCode.CANCELLED


def _nothing() -> None:
    """Nobody sends yet."""

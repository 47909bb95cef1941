"""How a stream ends, whatever legs carry it.

Words: our direction is *acknowledged* when the far application has taken all of it, the peer's
is *delivered* when our application has all of it and its end. The stream is *done* for us when
both are. A leg is *spent* when both its directions have ended by FIN.

FIN goes out as soon as our application has ended, so that it is passed on; but whoever learns
of the other's end first keeps its own FIN until it is done. So one direction of the leg lives,
and with it the way of checkpoints, as long as anybody lacks an acknowledgement, and whoever
loses that leg is told. The end itself is told by a checkpoint: no application waits for a FIN.
Whoever reads a FIN answers with a checkpoint: that all bytes are acknowledged does not say that
their end is known.

Only when both end in the same moment a leg is spent too early; then the stream takes another
one for what was not acknowledged. There the consumer alone sends its FIN again at once.

Source: protocol.md sections 5 and 6; docs/decisions/0010-the-second-fin-waits.md.
"""

from __future__ import annotations

from enum import Enum, auto

from outrelay.lib.resume.state import StreamState


class Phase(Enum):
    """What a stream waits for, with the leg it has."""

    LIVE = auto()
    """Bytes, ends and acknowledgements."""
    SPENT = auto()
    """Acknowledgements that are still on their way."""
    DONE = auto()
    """Nothing: our FIN may go out."""
    LINGERING = auto()
    """The peer's FIN, or its answer to ours."""
    OVER = auto()
    """Nobody needs it any more."""


class Ends:
    """What has ended of a stream, and of its leg.

    Args:
        state: The stream's account.
        is_consumer: Whether our application opened it.
    """

    __slots__ = (
        "_has_passed", "_is_consumer", "_is_first", "_state", "_was_heard", "_was_spent",
        "answered", "delivered", "fin_read", "fin_sent",
    )  # fmt: skip

    def __init__(self, state: StreamState, *, is_consumer: bool) -> None:
        self._state = state
        self._is_consumer = is_consumer
        self._is_first = True
        self._was_spent = False
        self._has_passed = False  # our FIN, to the relay
        self._was_heard = False  # the peer, since our FIN went out
        self.delivered = False
        """Whether our application has all of the peer's bytes, and their end."""
        self.fin_sent = False
        """Whether our direction of the leg has ended."""
        self.fin_read = False
        """Whether the peer's has."""
        self.answered = False
        """Whether the peer knows of our end: our bytes may all be acknowledged before they end."""

    def hear(self) -> None:
        """A checkpoint has come: whoever reads a FIN sends one."""
        self._was_heard = self._was_heard or (self.fin_sent and self.is_acknowledged)
        self._judge()

    def passed(self) -> None:
        """The relay has our FIN: what the peer repeats while it cannot have come is no answer."""
        self._has_passed = self.fin_sent
        self._judge()

    def _judge(self) -> None:
        self.answered = self.answered or (self._has_passed and self._was_heard)

    def lose_leg(self) -> None:
        """The leg is gone: nothing of the next one has ended."""
        self._was_spent = self._was_spent or (self.fin_sent and self.fin_read)
        self._is_first = self.fin_sent = self.fin_read = False
        self._has_passed = self._was_heard = False

    @property
    def is_acknowledged(self) -> bool:
        """Whether the far application has all of our bytes."""
        return self._state.final is not None and self._state.all_acknowledged

    @property
    def is_done(self) -> bool:
        """Whether neither side lacks anything, as far as we know."""
        return self.is_acknowledged and self.delivered

    @property
    def finishes_at_once(self) -> bool:
        """Whether our FIN goes out behind our last byte.

        A peer that sends no checkpoints would be waited for in vain.
        """
        if self._state.final is None or self.fin_sent:
            return False
        if not self._state.is_answered:
            return True
        return self._state.peer_final is None and (self._is_consumer or self._is_first)

    @property
    def may_be_left(self) -> bool:
        """Whether a stream without a leg is over if the peer does not come back for it.

        It does come when it lacks something, unless all it had of ours to say was on its way.
        """
        return (self.is_done and self.answered) or self._was_spent

    @property
    def phase(self) -> Phase:
        """Where the stream is."""
        is_spent = self.fin_sent and self.fin_read
        if is_spent and self.delivered and not self._state.is_answered:
            return Phase.OVER  # it acknowledges nothing, ever
        if not self.is_done:
            return Phase.SPENT if is_spent else Phase.LIVE
        if not self.fin_sent:
            return Phase.DONE
        return Phase.OVER if self.fin_read and self.answered else Phase.LINGERING

"""One stream's account at one agent: what was sent, what was taken, and when to say so.

Words: *sent* bytes were handed to a leg, *taken* ones were given to the local application.
A *checkpoint* tells the peer both numbers of ours. A direction's *final* position is where
its sender has ended it. A *leg* is what carries the stream now; after it is lost both sides
say where they are, and the stream goes on from there.

When a checkpoint is due:

- at the stream's beginning, with (0, 0);
- once 256 KiB were taken since the last one, at most one per 10 ms;
- 100 ms after the last change to what was taken, or to the final position;
- 1 s after the last one while the peer has not acknowledged everything;
- in answer to a peer that repeats itself, because it lacks an acknowledgement that was lost:
  after 1 s, and each time after twice as long, so that two who repeat themselves to each
  other fall silent.

Checkpoints may be lost, repeated and overtaken on their way through relays that keep only the
newest: one that says less than is known is old, and says nothing new but perhaps where the peer
has ended, which a resume does not tell. One that acknowledges what was never sent, or that is
older in one number and newer in the other, is no honest peer's.

Source: protocol.md section 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from outrelay.lib.errors import RemoteProtocolError, ResumeError, Why
from outrelay.lib.resume.ring import Ring

EVERY_BYTES = 256 * 1024
AT_MOST_EVERY = 0.01
AFTER_CHANGE = 0.1
REPEAT = 1.0
PATIENCE_MOST = 32.0
"""Seconds; see the module's text for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What one side tells the other.

    Args:
        my_position: Bytes its application has written.
        peer_ack_position: Bytes its application has taken.
        final_position: Where its direction has ended, once it has.
    """

    my_position: int
    peer_ack_position: int
    final_position: int | None = None

    def is_older_than(self, other: Checkpoint) -> bool:
        """Whether the same peer has said ``other`` after this.

        Raises:
            RemoteProtocolError: No honest peer says both.
        """
        mine = (self.my_position, self.peer_ack_position)
        others = (other.my_position, other.peer_ack_position)
        if all(one <= two for one, two in zip(mine, others, strict=True)):
            return mine != others
        if all(one >= two for one, two in zip(mine, others, strict=True)):
            return False
        raise RemoteProtocolError("a checkpoint is older and newer than the one before")


class StreamState:
    """The account of one stream.

    Args:
        ring: Of our direction; empty.
        now: Seconds on the caller's clock.
    """

    __slots__ = (
        "_answer", "_changed_at", "_last", "_last_at", "_patience", "_peer", "_ring",
        "final", "peer_final", "taken",
    )  # fmt: skip

    def __init__(self, ring: Ring, now: float) -> None:
        self._ring = ring
        self._peer: Checkpoint | None = None  # none received yet
        self._last: Checkpoint | None = None  # none sent yet
        self._last_at = now
        self._changed_at: float | None = None
        self._answer = False
        self._patience = REPEAT
        self.taken = 0
        """Bytes of the peer that the local application has taken."""
        self.final: int | None = None
        """Where our direction has ended."""
        self.peer_final: int | None = None
        """Where the peer's has, as far as it has said."""

    # ---- our direction -------------------------------------------------------------------

    @property
    def sent(self) -> int:
        """Bytes the local application has written."""
        return self._ring.end

    @property
    def room(self) -> int:
        """Bytes that may be sent now; 0: wait for an acknowledgement, or for the budget."""
        return self._ring.room

    @property
    def is_answered(self) -> bool:
        """Whether the peer has ever sent a checkpoint."""
        return self._peer is not None

    @property
    def all_acknowledged(self) -> bool:
        """Whether the far application has taken everything we sent."""
        return self._ring.start == self._ring.end

    def send(self, data: bytes) -> None:
        """``data``, not longer than ``room``, goes out now, and again when it must."""
        assert self.final is None
        self._ring.append(data)

    def finish(self, now: float) -> None:
        """Our direction ends here."""
        self.final = self._ring.end
        self._changed_at = now

    # ---- the peer's direction ------------------------------------------------------------

    def take(self, count: int, now: float) -> None:
        """The local application has taken ``count`` more bytes."""
        self.taken += count
        self._changed_at = now

    def end_of_leg(self) -> bool:
        """The leg's incoming direction ended by FIN: whether the peer's direction is complete.

        False: it cannot be told yet, the peer's final position is not known.

        Raises:
            RemoteProtocolError: It was cut short.
        """
        if self.peer_final is None:
            return False
        if self.peer_final != self.taken:
            raise RemoteProtocolError(
                f"the peer ended at byte {self.peer_final}, byte {self.taken} arrived last"
            )
        return True

    # ---- checkpoints ---------------------------------------------------------------------

    def due_at(self) -> float | None:
        """When the next checkpoint is to be sent; None: when something happens."""
        if self._last is None:
            return self._last_at
        times = []
        if self._changed_at is not None:
            much = self.taken - self._last.peer_ack_position >= EVERY_BYTES
            soon = self._last_at + AT_MOST_EVERY
            times.append(soon if much else max(soon, self._changed_at + AFTER_CHANGE))
        if not self.all_acknowledged:
            times.append(self._last_at + REPEAT)
        elif self._answer:
            times.append(self._last_at + self._patience)
        return min(times, default=None)

    @property
    def is_told(self) -> bool:
        """Whether the last checkpoint said all that there is to say."""
        return self._last == self._now()

    def checkpoint(self, now: float) -> Checkpoint:
        """The checkpoint to send now."""
        self._last = self._now()
        self._last_at = now
        self._changed_at = None
        if self._answer:
            self._answer = False
            self._patience = min(2 * self._patience, PATIENCE_MOST)
        return self._last

    def _now(self) -> Checkpoint:
        return Checkpoint(
            my_position=self._ring.end,
            peer_ack_position=self.taken,
            final_position=self.final,
        )

    def receive(self, told: Checkpoint) -> bool:
        """Note the peer's checkpoint; whether it acknowledged anything new.

        Raises:
            RemoteProtocolError: No honest peer says that.
        """
        if told.peer_ack_position > self._ring.end:
            raise RemoteProtocolError(
                f"byte {told.peer_ack_position} is acknowledged, byte {self._ring.end} was the last"
            )
        known = self._peer
        newest = known if known and told.is_older_than(known) else told
        self._note_final(told, newest)
        if newest is not told:
            return False
        if told == known:
            self._answer = True
            return False
        self._peer = told
        self._patience = REPEAT
        advances = told.peer_ack_position > self._ring.start
        self._ring.acknowledge(told.peer_ack_position)
        return advances

    def _note_final(self, told: Checkpoint, newest: Checkpoint) -> None:
        """Note where the peer has ended, if ``told`` says so."""
        final = self.peer_final if told.final_position is None else told.final_position
        if final is None:
            return
        if self.peer_final not in (None, final):
            raise RemoteProtocolError(f"the peer ended at byte {self.peer_final} before")
        if final < self.taken or newest.my_position > final:
            raise RemoteProtocolError(f"the peer cannot have ended at byte {final}")
        if told.final_position not in (None, told.my_position):
            raise RemoteProtocolError(f"the peer cannot have ended at byte {final}")
        self.peer_final = final

    # ---- another leg ---------------------------------------------------------------------

    def resume(self, told: Checkpoint) -> Iterator[memoryview]:
        """The bytes to send on a new leg, after which new ones follow.

        Args:
            told: Where the peer says it is.

        Raises:
            ResumeError: What the peer lacks is gone.
            RemoteProtocolError: No honest peer says that.
        """
        if told.peer_ack_position < self._ring.start:
            raise ResumeError(
                Why.GONE,
                f"the peer has {told.peer_ack_position} bytes,"
                f" those before {self._ring.start} are not kept any more",
            )
        if told.my_position < self.taken:
            raise RemoteProtocolError(
                f"the peer has sent {told.my_position} bytes, {self.taken} have arrived"
            )
        self.receive(told)
        return self._ring.since(told.peer_ack_position)

    def release(self) -> None:
        """Keep nothing any more: the stream is over."""
        self._ring.release()

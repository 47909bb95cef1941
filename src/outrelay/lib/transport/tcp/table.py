"""The live channels of a yamux session: their ids, and what they may cost together.

Words: a channel is *forgotten* when both directions have ended on the wire. What windows are
larger by than yamux's initial ones has *grown*; bytes that wait for readers are *held*. A
forgotten channel counts for neither: what it holds is its reader's business.

Invariants: ids of either side only go up; each side has at most STREAMS channels, and we have
at most UNACKNOWLEDGED that the peer has not acknowledged.

Source: protocol.md section 9.
"""

from __future__ import annotations

from collections.abc import Iterator

from outrelay.lib.errors import RemoteProtocolError
from outrelay.lib.transport.tcp.channel import INITIAL_WINDOW, WINDOW, Channel

STREAMS = 1024
"""Streams each side may have open."""

UNACKNOWLEDGED = 256
"""Streams we opened that the peer has not acknowledged: more, and a plain peer resets them."""

GROWTH_MAX = 64 << 20
"""What all windows together may have grown by, bytes."""

CONTROL = 1
"""The dialling side's first stream, on which both speak of the others."""

ALONE = 0.05
"""Seconds that one stream is the only one to bring data before it counts as alone."""

LAST_ID = (1 << 32) - 1


class Table:
    """See the module.

    Args:
        dialled: Whether we are the dialling side, whose ids are odd.
    """

    def __init__(self, *, dialled: bool) -> None:
        self._channels: dict[int, Channel] = {}
        self._next = 1 if dialled else 2
        self._peers_last = 0
        self._ours = 0
        self._unacknowledged = 0
        self._grown = 0
        self._talker = 0
        self._talks_since = 0.0
        self.held = 0
        """Bytes that wait for readers."""

    def __len__(self) -> int:
        return len(self._channels)

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._channels.values())

    def __contains__(self, channel: Channel) -> bool:
        return channel.number in self._channels

    def clear(self) -> None:
        """Forget all of them."""
        self._channels.clear()

    # ---- ids -------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether we can open none now."""
        return self._ours >= STREAMS or self._unacknowledged >= UNACKNOWLEDGED

    @property
    def is_used_up(self) -> bool:
        """Whether we can open none ever again."""
        return self._next > LAST_ID

    def open(self) -> Channel:
        """A new channel of ours; the table is neither full nor used up."""
        channel = self._channels[self._next] = Channel(self._next)
        channel.acked = False
        self._next += 2
        self._ours += 1
        self._unacknowledged += 1
        return channel

    def accept(self, number: int) -> Channel | None:
        """The channel that the peer opens; None when it has too many.

        Raises:
            RemoteProtocolError: The id is not the peer's to use, or was used.
        """
        if self._is_ours(number):
            raise RemoteProtocolError(f"stream {number} is not the peer's to open")
        if number <= self._peers_last:
            raise RemoteProtocolError(f"stream {number} was opened before")
        self._peers_last = number
        if len(self._channels) - self._ours >= STREAMS:
            return None
        channel = self._channels[number] = Channel(number)
        return channel

    def find(self, number: int) -> Channel | None:
        """The channel with an id; None when it was forgotten.

        Raises:
            RemoteProtocolError: There never was one.
        """
        channel = self._channels.get(number)
        if channel is None:
            last = self._next - 1 if self._is_ours(number) else self._peers_last
            if number > last:
                raise RemoteProtocolError(f"a frame for stream {number}, which nobody opened")
        return channel

    def acknowledge(self, channel: Channel) -> None:
        """The peer knows of the channel."""
        if not channel.acked:
            channel.acked = True
            self._unacknowledged -= 1

    def forget(self, channel: Channel) -> bool:
        """Forget the channel when it is over; whether it was one of ours."""
        if not channel.over or self._channels.pop(channel.number, None) is None:
            return False
        self.held -= channel.incoming.held
        self._grown -= channel.incoming.window - INITIAL_WINDOW
        self.acknowledge(channel)
        is_ours = self._is_ours(channel.number)
        self._ours -= is_ours
        return is_ours

    def _is_ours(self, number: int) -> bool:
        return number % 2 == self._next % 2

    # ---- windows ---------------------------------------------------------------------------

    def grant(self, channel: Channel) -> int:
        """The credit that a new channel gets besides its initial window."""
        more = min(WINDOW - INITIAL_WINDOW, GROWTH_MAX - self._grown)
        self._grown += more
        channel.incoming.widen(more)
        return more

    def arrived(self, channel: Channel, size: int, now: float) -> None:
        """Data has come for a channel."""
        self.held += size
        if channel.number not in (self._talker, CONTROL):
            self._talker, self._talks_since = channel.number, now

    def credit(self, channel: Channel, now: float, rtt: float) -> int:
        """The credit to give back now; see ``Incoming.credit``."""
        incoming = channel.incoming
        before = incoming.window
        is_alone = now - self._talks_since >= ALONE
        credit = incoming.credit(now, rtt, GROWTH_MAX - self._grown, alone=is_alone)
        self._grown += incoming.window - before
        return credit

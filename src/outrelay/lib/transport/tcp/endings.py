"""Directions of channels that we have given up, and how the peer is told.

A peer that *takes notes* is told of each direction with its code (yamux_frames.py). For
others there is RST, which ends both directions at once: our ``reset`` becomes one, a moment
later, for its code may be said on ORP's control stream before. Our ``stop`` must not, while our
own direction may go on: no credit is given any more, and the RST follows some time after our
end, when the peer has read what came before it.

Source: protocol.md section 9; docs/decisions 0004.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from outrelay.lib.errors import ErrorCode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.tcp.channel import Channel
from outrelay.lib.transport.tcp.yamux_frames import FIN, RST, UPDATE, Note, header, note

STOP_GRACE = 2.0
"""Seconds between our end of a stream and the RST for a peer that goes on sending."""

RST_DELAY = 0.01
"""Seconds in which a reset's code can be said before the RST."""

_BOTH = (orp.BOTH,)
_EACH = (orp.SENT, orp.RECEIVED)


class Parting(NamedTuple):
    """What to tell the peer.

    Args:
        channel: Whose ends it is about.
        frames: To be sent.
        reset: The code of an RST among them, after which both directions are over.
    """

    channel: Channel
    frames: bytes
    reset: ErrorCode | None = None


class Endings:
    """The ends of one session's channels that the peer does not know of."""

    def __init__(self) -> None:
        self._resets: dict[Channel, ErrorCode] = {}
        self._stops: dict[Channel, ErrorCode] = {}
        self._lingering: dict[Channel, float] = {}
        self._delayed: dict[Channel, tuple[float, ErrorCode]] = {}

    @property
    def is_due(self) -> bool:
        """Whether ``tell`` has something to say."""
        return bool(self._resets or self._stops)

    @property
    def is_waiting(self) -> bool:
        """Whether there will be something to call ``overdue`` for."""
        return bool(self._lingering or self._delayed)

    def reset(self, channel: Channel, code: ErrorCode) -> None:
        """We gave our direction up."""
        self._resets[channel] = code

    def stop(self, channel: Channel, code: ErrorCode) -> None:
        """We want no more of the peer's direction."""
        self._stops[channel] = code

    def clear(self) -> None:
        """The session has ended."""
        self._resets.clear()
        self._stops.clear()
        self._lingering.clear()
        self._delayed.clear()

    def tell(self, now: float, *, takes_notes: bool) -> list[Parting]:
        """What to tell the peer; directions that have ended meanwhile are left out."""
        partings = []
        for channel in self._resets | self._stops:
            reset = None if channel.outgoing.over else self._resets.get(channel)
            stop = None if channel.incoming.over else self._stops.get(channel)
            if takes_notes:
                partings.append(_noted(channel, reset, stop))
            elif reset is not None:
                self._delayed.setdefault(channel, (now + RST_DELAY, reset))
            elif stop is not None:
                self._lingering[channel] = now + STOP_GRACE
        self._resets.clear()
        self._stops.clear()
        return partings

    def next_deadline(self) -> float:
        """When to call ``overdue``."""
        times = (*self._lingering.values(), *(at for at, _ in self._delayed.values()))
        return min(times, default=inf)

    def overdue(self, now: float) -> list[Parting]:
        """What to tell peers without notes now: resets, and stops that they do not heed."""
        partings = []
        for channel, (at, code) in list(self._delayed.items()):
            if channel.over or now >= at:
                del self._delayed[channel]
            if not channel.over and now >= at:
                partings.append(_reset(channel, code))
        for channel, until in list(self._lingering.items()):
            if channel.incoming.over:
                del self._lingering[channel]
            elif now >= until and channel.outgoing.over:
                del self._lingering[channel]
                partings.append(_reset(channel, ErrorCode.CANCELLED))
            elif now >= until:
                self._lingering[channel] = now + STOP_GRACE
        return partings


def _reset(channel: Channel, code: ErrorCode, notes: bytes = b"") -> Parting:
    return Parting(channel, notes + header(UPDATE, RST, channel.number, 0), code)


def _noted(channel: Channel, reset: ErrorCode | None, stop: ErrorCode | None) -> Parting:
    """What a peer is told that takes notes."""
    directions = _BOTH if reset == stop else _EACH
    codes = (reset, stop)
    notes = b"".join(
        note(Note(channel.number, code, direction=direction))
        for direction, code in zip(directions, codes, strict=False)
        if code is not None
    )
    if reset is not None and stop is not None:
        return _reset(channel, reset, notes)
    if reset is not None:
        channel.outgoing.over = True
        notes += header(UPDATE, FIN, channel.number, 0)
    return Parting(channel, notes)

"""Two yamux sessions joined by a path that exists in memory and in virtual time.

    path = Path(delay=0.05, cut=chunks_of(1000))
    near, far = path.near, path.far
    channel = near.open()
    ...
    path.run(2.0)

The path is what TLS and TCP make of a network: bytes in order, late, cut anywhere, and no
more of them on the way than fit. Nothing happens but within ``run``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

from outrelay.lib.transport.tcp.channel import Channel
from outrelay.lib.transport.tcp.yamux import EventKind, Session

Cut = Callable[[bytes], Iterable[bytes]]

RECORD = 16 * 1024
"""What arrives at once: a record of TLS."""

RESTLESS = 100_000
"""Steps at one moment after which two sessions will never come to rest."""


def whole(data: bytes) -> Iterable[bytes]:
    """Not cut at all."""
    return (data,)


def chunks_of(size: int) -> Cut:
    """Cut every ``size`` bytes."""
    return lambda data: (data[at : at + size] for at in range(0, len(data), size))


class End:
    """One session, what is on the way to it, and what its application was told.

    Args:
        dialled: Whether it is the dialling side.
        now: Virtual seconds.
    """

    def __init__(self, *, dialled: bool, now: float) -> None:
        self.session = Session(dialled=dialled, now=now)
        self.coming: deque[tuple[float, bytes]] = deque()
        self.opened: list[Channel] = []
        self.events: list[EventKind] = []

    def collect(self) -> None:
        """Take the session's events."""
        for kind, channel in self.session.events():
            self.events.append(kind)
            if kind is EventKind.OPENED:
                assert channel is not None
                self.opened.append(channel)


class Path:
    """Two ends and the way between them.

    Args:
        delay: Seconds, each way.
        rate: Bytes a second, each way.
        room: Bytes that wait at that rate, above which a session is not asked for more.
        cut: How what arrives is cut.
        start: Virtual seconds at the beginning.
    """

    def __init__(
        self,
        *,
        delay: float = 0.0,
        rate: float = math.inf,
        room: float = math.inf,
        cut: Cut = whole,
        start: float = 1000.0,
    ) -> None:
        self.now = start
        self._delay = delay
        self._rate = rate
        self._lag = room / rate if rate < math.inf else math.inf
        self._cut = cut
        self.near = End(dialled=True, now=start)
        self.far = End(dialled=False, now=start)
        self._free_at = {self.near: start, self.far: start}
        self.is_cut_off = False
        self.act: Callable[[], None] | None = None
        """What the applications do, after whatever has happened."""

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        steps = 0
        while True:
            self._say()
            moment = min(self._moments(), default=math.inf)
            if moment > until:
                break
            steps = steps + 1 if moment <= self.now else 0
            assert steps < RESTLESS, "the sessions do not come to rest"
            self.now = max(self.now, moment)
            self._step()
        self.now = until

    def rest(self) -> None:
        """Run until nothing is on the way."""
        self.run(0)
        while self.near.coming or self.far.coming:
            self.run(max(self._delay, 0.001))

    def _ends(self) -> tuple[tuple[End, End], tuple[End, End]]:
        return (self.near, self.far), (self.far, self.near)

    def _moments(self) -> Iterable[float]:
        for end, _ in self._ends():
            if end.coming:
                yield end.coming[0][0]
            if end.session.has_output:
                yield self._free_at[end] - self._lag
            deadline = end.session.next_deadline()
            if deadline is not None:
                yield deadline

    def _say(self) -> None:
        """Put what the sessions have to say on the way; their applications act on it, too."""
        is_moving = True
        while is_moving:
            is_moving = False
            for end, other in self._ends():
                end.collect()
                if self.act is not None:
                    self.act()
                while self._free_at[end] - self.now <= self._lag + 1e-9:
                    data = b"".join(end.session.data_to_send(self.now))
                    if not data:
                        break
                    is_moving = True
                    self._send(data, end, other)
                end.collect()

    def _send(self, data: bytes, end: End, other: End) -> None:
        free_at = max(self._free_at[end], self.now)
        for at in range(0, len(data), RECORD):
            record = data[at : at + RECORD]
            free_at += len(record) / self._rate
            if not self.is_cut_off:
                other.coming.append((free_at + self._delay, record))
        self._free_at[end] = free_at

    def _step(self) -> None:
        """Deliver what has arrived, and let timers fire."""
        for end, _ in self._ends():
            while end.coming and end.coming[0][0] <= self.now:
                _, data = end.coming.popleft()
                for part in self._cut(data):
                    end.session.receive(memoryview(part), self.now)
            deadline = end.session.next_deadline()
            if deadline is not None and deadline <= self.now:
                end.session.handle_timeout(self.now)
            end.collect()

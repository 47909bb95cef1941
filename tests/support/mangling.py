"""A conversation of two engines, and somebody on the way who adds what a string of bytes says.

He sees every datagram and sends damaged copies of it, in either direction, with either end's
address or another one; he cannot hold back what the ends send, nor be there before it. So whatever
he does, they connect, and every byte arrives: nothing that is not authentic may end a connection.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from outrelay.lib.transport.quic.engine import Engine, EventKind
from tests.support.virtual_quic import Datagram, End, Network

ELSEWHERE = ("203.0.113.9", 9)
COPIES = 400
"""What he sends at most: he ends, however long the ends talk."""
REMEMBERED = 32
"""Datagrams he has seen that he may use again."""
STATE = 16
"""Connections that may be known to an end at most: its own, and beginnings that he made up."""


class Decisions:
    """Numbers out of a string; zeros when it is used up.

    Args:
        text: The string.
    """

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._at = 0

    def below(self, limit: int) -> int:
        """The next one, from 0 to ``limit`` - 1; two bytes of the string."""
        taken = self._text[self._at : self._at + 2]
        self._at += 2
        return int.from_bytes(taken, "little") % limit

    @property
    def over(self) -> bool:
        """Whether all of the string was used."""
        return self._at >= len(self._text)


class Mangler:
    """Adds damaged copies to what passes; ``passes`` is the network's hook.

    Args:
        network: Where.
        text: What he does.
    """

    def __init__(self, network: Network, text: bytes) -> None:
        self.sent = 0
        self._network = network
        self._decide = Decisions(text)
        self._seen: list[Datagram] = []
        self._copies: list[Datagram] = []
        """Of the last datagram, to be sent after it."""
        self._damages: Mapping[int, Callable[[bytes], bytes]] = {
            1: self._flip,
            2: self._cut,
            3: self._splice,
            4: self._join,
            5: self._fill,
            6: self._repeat,
            7: self._head,
        }
        network.passes = self._pass
        self._sending = False

    def _pass(self, datagram: Datagram) -> bool:
        if not self._sending:
            self._send_copies()
            self._seen = [*self._seen[-REMEMBERED:], datagram]
            self._add_to(datagram)
        return True

    def _send_copies(self) -> None:
        copies, self._copies = self._copies, []
        self._sending = True
        for each in copies:
            self._network.send(each)
        self._sending = False

    def _add_to(self, datagram: Datagram) -> None:
        for _ in range(self._decide.below(4)):
            damage = self._damages.get(self._decide.below(8))
            if damage is None or self._decide.over or self.sent == COPIES:
                return
            self.sent += 1
            self._copy(datagram, damage(datagram.data))

    def _copy(self, datagram: Datagram, data: bytes) -> None:
        source, target = datagram.source, datagram.target
        direction = self._decide.below(8)
        if direction == 1:
            source, target = target, source
        elif direction == 2:
            source = ELSEWHERE
        self._copies.append(Datagram(source, target, data or b"\0"))

    def _flip(self, data: bytes) -> bytes:
        damaged = bytearray(data)
        for _ in range(1 + self._decide.below(4)):
            damaged[self._place(data)] ^= 1 << self._decide.below(8)
        return bytes(damaged)

    def _place(self, data: bytes) -> int:
        """Headers are what is read without a key: every second place is in one."""
        limit = min(len(data), 64) if self._decide.below(2) else len(data)
        return self._decide.below(limit)

    def _cut(self, data: bytes) -> bytes:
        return data[: 1 + self._decide.below(len(data))]

    def _other(self) -> bytes:
        return self._seen[self._decide.below(len(self._seen))].data

    def _splice(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + self._other()[at:]

    def _join(self, data: bytes) -> bytes:
        return (data + self._other())[: 1500 + self._decide.below(2) * 60_000]

    def _fill(self, data: bytes) -> bytes:
        at, seed = self._place(data), self._decide.below(1 << 16)
        return data[:at] + random.Random(seed).randbytes(self._decide.below(1500))

    def _repeat(self, _: bytes) -> bytes:
        return self._other()

    def _head(self, data: bytes) -> bytes:
        return bytes([self._decide.below(256)]) + data[1:]


def converse(dials: Engine, listens: Engine, text: bytes) -> int:
    """Have two engines connect, talk and part under what ``text`` says; returns what was added.

    Raises:
        AssertionError: They noticed more of it than the time it takes.
    """
    network = Network()
    mangler = Mangler(network, text)
    near, far = network.connect(network.host(dials), network.host(listens))
    for data in (b"few bytes", bytes(20_000)):
        assert network.transfer(near, far, data) == data
        assert network.transfer(far, near, data) == data
        for end in (near, far):
            assert not end.events(EventKind.LOST)
            assert _known(end) <= STATE
    near.close()
    network.run(lambda: bool(far.events(EventKind.DRAINED) and near.events(EventKind.DRAINED)))
    network.run_for(60.0)
    assert [(_known(end), end.host.engine.next_deadline()) for end in (near, far)] == [
        (0, None)
    ] * 2
    return mangler.sent


def _known(end: End) -> int:
    """How many connections an engine holds; both call them so."""
    links: Mapping[int, object] = end.host.engine._links  # type: ignore[attr-defined]
    return len(links)

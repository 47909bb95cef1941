"""Both ends of our own session, joined in virtual time: bytes, windows, rates, lost paths."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from outrelay.lib.errors import ErrorCode
from outrelay.lib.transport.tcp.channel import INITIAL_WINDOW, WINDOW, Channel
from outrelay.lib.transport.tcp.yamux import EventKind
from tests.support.virtual_yamux import Cut, End, Path, chunks_of, whole

MIB = 1 << 20
READ = 256 * 1024


@dataclass(slots=True)
class Transfer:
    """Bytes that one end writes as there is room, and the other reads as it likes.

    Args:
        source: Who writes.
        size: How much.
        seed: Of the bytes.
        greedy: Whether they are read as they come.
    """

    source: End
    sink: End
    size: int
    seed: int = 1
    greedy: bool = True
    channel: Channel = field(init=False)
    sent: int = 0
    got: int = 0
    ended: bool = False
    written: hashlib._Hash = field(default_factory=hashlib.sha256)
    read: hashlib._Hash = field(default_factory=hashlib.sha256)

    def __post_init__(self) -> None:
        channel = self.source.session.open()
        assert channel is not None
        self.channel = channel
        self._chance = random.Random(self.seed)

    _chance: random.Random = field(init=False)

    def act(self, now: float) -> None:
        """Write what there is room for, and read what has come."""
        outgoing = self.channel.outgoing
        while self.sent < self.size and not outgoing.full and outgoing.error is None:
            data = self._chance.randbytes(min(100_000, self.size - self.sent))
            self.written.update(data)
            self.sent += len(data)
            self.source.session.write(self.channel, data)
        if self.sent == self.size:
            self.source.session.finish(self.channel)
        if self.greedy:
            self.drink(now)

    def drink(self, now: float) -> None:
        """Read what has come."""
        for other in self.sink.opened:
            if other.number == self.channel.number:
                while data := self.sink.session.read(other, READ, now):
                    self.read.update(data)
                    self.got += len(data)
                self.ended = other.incoming.drained
                if self.ended:
                    self.sink.session.finish(other)

    def check(self) -> None:
        assert self.ended
        assert self.got == self.size
        assert self.read.digest() == self.written.digest()
        assert self.channel.outgoing.acknowledged


def random_cut(seed: int) -> Cut:
    chance = random.Random(seed)

    def cut(data: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(data):
            size = chance.choice([1, 7, 12, 100, 5_000, 70_000])
            yield data[at : at + size]
            at += size

    return cut


def move(path: Path, transfers: list[Transfer], seconds: float) -> None:
    def act() -> None:
        for transfer in transfers:
            transfer.act(path.now)

    path.act = act
    path.run(seconds)


@pytest.mark.parametrize("delay", [0.0, 0.03])
@pytest.mark.parametrize("cut", [whole, chunks_of(1000), random_cut(3)])
def test_bytes_arrive_as_they_were_sent(delay: float, cut: Cut) -> None:
    path = Path(delay=delay, cut=cut)
    transfers = [
        Transfer(path.near, path.far, 2 * MIB, seed=1),
        Transfer(path.far, path.near, MIB, seed=2),
        Transfer(path.near, path.far, 0, seed=3),
        Transfer(path.far, path.near, 1, seed=4),
    ]
    move(path, transfers, 5.0)
    for transfer in transfers:
        transfer.check()


def test_many_streams_at_once() -> None:
    path = Path(delay=0.01, rate=50e6, room=512 * 1024)
    transfers = [
        Transfer(*ends, 50_000 + number, seed=number)
        for number in range(100)
        for ends in ((path.near, path.far), (path.far, path.near))
    ]
    move(path, transfers, 5.0)
    for transfer in transfers:
        transfer.check()
    assert not path.near.session._table
    assert not path.far.session._table


@pytest.mark.parametrize(("delay", "rate"), [(0.05, 40e6), (0.1, 10e6), (0.005, 100e6)])
def test_a_long_fat_path_is_filled(delay: float, rate: float) -> None:
    """The window grows until the path, not the window, is the limit."""
    path = Path(delay=delay, rate=rate, room=256 * 1024)
    transfer = Transfer(path.near, path.far, 1 << 40)
    move(path, [transfer], 4.0)
    before = transfer.got
    move(path, [transfer], 1.0)
    assert transfer.got - before > 0.85 * rate
    (far,) = path.far.opened
    assert far.incoming.window <= max(WINDOW, 6 * (2 * delay * rate))


def test_a_window_does_not_grow_for_a_path_that_needs_none() -> None:
    path = Path(delay=0.001, rate=20e6, room=256 * 1024)
    transfer = Transfer(path.near, path.far, 40 * MIB)
    move(path, [transfer], 5.0)
    transfer.check()
    assert path.far.opened[0].incoming.window == WINDOW


def test_a_reader_that_stops_holds_its_stream_and_no_other() -> None:
    path = Path(delay=0.01)
    stalled = Transfer(path.near, path.far, 16 * MIB, greedy=False)
    other = Transfer(path.near, path.far, 8 * MIB, seed=2)
    move(path, [stalled, other], 3.0)
    other.check()
    assert path.far.opened[0].incoming.held == WINDOW
    stalled.greedy = True
    move(path, [stalled, other], 5.0)
    stalled.check()


def test_a_small_stream_does_not_wait_behind_a_large_one() -> None:
    """However much a stream has to send, another one's turn comes after one frame of it."""
    path = Path(rate=10e6, room=256 * 1024)
    bulk = Transfer(path.near, path.far, 1 << 40)
    move(path, [bulk], 1.0)
    small = Transfer(path.near, path.far, 64, seed=2)
    waited = 0.0
    while not small.ended:
        move(path, [bulk, small], 0.005)
        waited += 0.005
    assert waited <= 0.085  # what waits for the path, and one turn of the other: 3 * 256 KiB


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_the_round_trip_is_known(delay: float) -> None:
    path = Path(delay=delay)
    path.run(10.0)
    assert path.near.session.rtt == pytest.approx(2 * delay, abs=0.001)
    assert path.far.session.rtt == pytest.approx(2 * delay, abs=0.001)


def test_an_idle_session_lives_for_ever_on_little() -> None:
    path = Path(delay=0.02)
    path.run(3600.0)
    assert path.near.session.closed is None
    assert path.far.session.closed is None
    assert path.near.session.pings < 3600 / 3 + 5
    assert path.far.session.pings < 5  # it hears the other side's


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_lost_path_is_noticed_within_the_limit(is_busy: bool) -> None:
    path = Path(delay=0.02)
    if is_busy:
        move(path, [Transfer(path.near, path.far, 1 << 40, greedy=False)], 1.0)
    path.run(100.0)
    path.is_cut_off = True
    path.run(10.1)
    for end in (path.near, path.far):
        closed = end.session.closed
        assert closed is not None
        assert closed.lost
        assert end.events[-1] is EventKind.LOST


def test_a_close_arrives_with_code_and_reason() -> None:
    path = Path(delay=0.02)
    path.run(1.0)
    path.near.session.close(ErrorCode.REPLACED, "anew")
    path.run(1.0)
    closed = path.far.session.closed
    assert closed is not None
    assert (closed.code, closed.reason, closed.by_peer) == (ErrorCode.REPLACED, "anew", True)


def test_credit_of_dropped_streams_is_not_lost() -> None:
    """Streams that end in every way, for as long as ids last: nothing adds up."""
    path = Path(delay=0.001)
    chance = random.Random(4)
    for _ in range(1500):
        near = path.near.session.open()
        assert near is not None
        path.near.session.write(near, chance.randbytes(chance.randrange(3000)))
        path.rest()
        far = path.far.opened.pop()
        for session, channel in ((path.near.session, near), (path.far.session, far)):
            for operation in chance.sample(["finish", "reset", "stop", "read"], 3):
                match operation:
                    case "finish":
                        session.finish(channel)
                    case "reset":
                        session.reset(channel, ErrorCode.DENIED)
                    case "stop":
                        session.stop(channel, ErrorCode.DENIED)
                    case "read":
                        if channel.incoming.error is None:
                            session.read(channel, 1000, path.now)
            session.stop(channel, ErrorCode.DENIED)
            session.finish(channel)
        path.rest()
    path.rest()
    for end in (path.near, path.far):
        session = end.session
        assert session.closed is None
        assert not session._table
        assert not session._endings.is_due
        assert not session._turns
        assert (session._table.held, session._table._grown, session._table._ours) == (0, 0, 0)
        assert session._table._unacknowledged == 0


def test_initial_windows_are_what_yamux_says() -> None:
    path = Path(delay=0.05)
    transfer = Transfer(path.near, path.far, MIB)
    move(path, [transfer], 0.06)
    assert transfer.sent - transfer.channel.outgoing.unsent == INITIAL_WINDOW

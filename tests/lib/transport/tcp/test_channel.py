"""One stream's two directions: windows, credit, pieces, and how they end."""

from __future__ import annotations

import random
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.errors import Closed, ErrorCode, LocalProtocolError, RemoteProtocolError, Reset
from outrelay.lib.transport.carrier import WRITE_BUFFER
from outrelay.lib.transport.tcp.channel import (
    CREDIT_MAX,
    INITIAL_WINDOW,
    PARTS,
    SMALL,
    TURN,
    WINDOW,
    WINDOW_MAX,
    Channel,
    Incoming,
    Outgoing,
)

KIB = 1 << 10
MIB = 1 << 20


def fed(*parts: bytes) -> Incoming:
    """A direction that was given ``parts``, each in a frame and an arrival of its own."""
    incoming = Incoming()
    for part in parts:
        feed(incoming, part)
    return incoming


def feed(incoming: Incoming, data: bytes) -> int:
    incoming.announce(len(data))
    incoming.add(memoryview(data))
    return incoming.settle()


# --- receiving ---------------------------------------------------------------------------


def test_what_comes_is_read_in_order() -> None:
    incoming = fed(b"abc", b"def")
    assert incoming.held == 6
    assert incoming.read(2) == b"ab"
    assert incoming.read(100) == b"cdef"
    assert incoming.held == 0
    assert incoming.read(100) is None
    assert incoming.hungry


def test_parts_are_copied_once_when_all_have_come() -> None:
    incoming = Incoming()
    buffer = bytearray(b"abcdef")
    incoming.announce(6)
    assert incoming.add(memoryview(buffer)[:3])
    assert not incoming.add(memoryview(buffer)[3:])  # told once
    assert incoming.settle() == 6
    buffer[:] = b"------"
    assert incoming.settle() == 0
    assert incoming.read(6) == b"abcdef"


def test_the_end_is_read_behind_the_bytes() -> None:
    incoming = fed(b"last")
    incoming.over = True
    assert incoming.read(100) == b"last"
    was_drained = incoming.drained
    assert incoming.read(100) == b""
    assert (was_drained, incoming.drained) == (False, True)
    assert not incoming.hungry


def test_an_early_end_drops_what_waits_and_what_comes() -> None:
    incoming = fed(b"waiting")
    incoming.announce(4)
    assert incoming.add(memoryview(b"here"))
    incoming.fail(Reset(ErrorCode.DENIED))
    incoming.fail(Reset(ErrorCode.LIMIT))
    assert incoming.settle() == 0
    incoming.announce(4)
    assert not incoming.add(memoryview(b"more"))
    assert incoming.held == 0
    with pytest.raises(Reset) as reset:
        incoming.read(1)
    assert reset.value.code is ErrorCode.DENIED


def test_nothing_comes_after_the_end() -> None:
    incoming = Incoming()
    incoming.over = True
    incoming.announce(0)
    with pytest.raises(RemoteProtocolError, match="after the end"):
        incoming.announce(1)


def test_no_more_comes_than_was_granted() -> None:
    incoming = Incoming()
    incoming.announce(INITIAL_WINDOW - 1)
    with pytest.raises(RemoteProtocolError, match="window"):
        incoming.announce(2)
    incoming.announce(1)


def test_many_small_pieces_cost_little() -> None:
    incoming = Incoming()
    for _ in range(SMALL):
        feed(incoming, b"x")
    assert len(incoming._pieces) == 1
    feed(incoming, b"y" * SMALL)
    feed(incoming, b"z")
    assert len(incoming._pieces) == 3
    assert incoming.read(2 * SMALL) == b"x" * SMALL + b"y" * SMALL
    assert incoming.read(1) == b"z"


@given(
    st.lists(st.binary(max_size=40_000), max_size=8),
    st.lists(st.integers(1, 60_000), min_size=1, max_size=8),
)
def test_any_cut_reads_the_same(parts: list[bytes], limits: list[int]) -> None:
    incoming = Incoming()
    incoming.widen(WINDOW - INITIAL_WINDOW)
    for part in parts:
        feed(incoming, part)
    incoming.over = True
    got = bytearray()
    for limit in cycle(limits):
        data = incoming.read(limit)
        assert data is not None
        assert len(data) <= limit
        got += data
        if not data:
            break
    assert got == b"".join(parts)
    assert incoming.held == 0


# --- credit ------------------------------------------------------------------------------


def take(
    incoming: Incoming,
    size: int,
    now: float,
    *,
    rtt: float = 0.0,
    spare: int = 0,
    alone: bool = False,
) -> int:
    """Receive and read ``size`` bytes; the credit that gives back."""
    feed(incoming, bytes(size))
    credit = 0
    while (data := incoming.read(MIB)) is not None:
        assert data
        credit += incoming.credit(now, rtt, spare, alone=alone)
    return credit


def test_credit_goes_back_in_quarters_of_a_window() -> None:
    incoming = Incoming()
    assert take(incoming, 50 * KIB, 0.0) == 0
    assert take(incoming, 14 * KIB, 0.0) == 64 * KIB
    assert incoming.granted == INITIAL_WINDOW
    assert take(incoming, 63 * KIB, 0.0) == 0


def test_what_is_not_read_gives_no_credit() -> None:
    incoming = fed(bytes(INITIAL_WINDOW))
    assert incoming.credit(0.0, 1.0, MIB, alone=True) == 0
    incoming.read(INITIAL_WINDOW // PARTS - 1)
    assert incoming.credit(0.0, 1.0, MIB, alone=True) == 0


def test_no_credit_after_the_end() -> None:
    incoming = fed(bytes(INITIAL_WINDOW))
    incoming.over = True
    incoming.read(INITIAL_WINDOW)
    assert incoming.credit(0.0, 1.0, MIB, alone=True) == 0


def windows(incoming: Incoming, every: float, count: int, *, rtt: float, spare: int) -> int:
    """Take ``count`` windows, one in ``every`` seconds, in parts; the window it has then."""
    now = 50.0
    for _ in range(PARTS * count):
        now += every / PARTS
        before = incoming.window
        credit = take(incoming, before // PARTS, now, rtt=rtt, spare=spare)
        assert credit == before // PARTS + incoming.window - before
        spare -= incoming.window - before
    return incoming.window


def test_a_window_that_is_the_limit_grows_to_16_mib() -> None:
    assert windows(Incoming(), 0.1, 15, rtt=0.1, spare=100 * MIB) == WINDOW_MAX


def test_a_reader_that_is_slower_than_the_path_gets_no_more() -> None:
    assert windows(Incoming(), 0.32, 15, rtt=0.1, spare=100 * MIB) == INITIAL_WINDOW


def test_a_window_grows_by_what_is_to_spare() -> None:
    assert windows(Incoming(), 0.02, 15, rtt=0.1, spare=300 * KIB) == INITIAL_WINDOW + 300 * KIB


def test_a_window_does_not_grow_before_a_round_trip_is_known() -> None:
    assert windows(Incoming(), 0.0002, 15, rtt=0.0, spare=MIB) == INITIAL_WINDOW


@pytest.mark.parametrize("pieces", [1, PARTS])
def test_a_reader_that_takes_all_at_once_now_and_then_is_no_fast_one(pieces: int) -> None:
    incoming = Incoming()
    size = INITIAL_WINDOW // pieces
    for now in range(10, 100, 10):
        for _ in range(pieces):
            assert take(incoming, size, now, rtt=0.1, spare=MIB) == size
    assert incoming.window == INITIAL_WINDOW


def flow(incoming: Incoming, since: float, *, alone: bool, rtt: float = 0.0) -> int:
    """Take 20 quarters of a window at 400 MB/s; the credit beyond what was taken."""
    now, more = since, 0
    for _ in range(20):
        size = incoming.window // PARTS
        now += size / 400e6
        more += take(incoming, size, now, rtt=rtt, spare=100 * MIB, alone=alone) - size
        assert incoming.granted == incoming.window
    return more


def test_who_has_the_way_alone_gets_what_keeps_busy_processes_at_work() -> None:
    incoming = Incoming()
    assert flow(incoming, 1.0, alone=True) == 8 * MIB - INITIAL_WINDOW
    assert incoming.window == 8 * MIB > 3 * TURN * 400e6


def test_who_shares_the_way_gives_that_back_and_no_more() -> None:
    incoming = Incoming()
    flow(incoming, 1.0, alone=False, rtt=0.001)  # a path that needs 2 MiB
    needed = incoming.window
    flow(incoming, 2.0, alone=True, rtt=0.001)
    assert INITIAL_WINDOW < needed < incoming.window
    assert flow(incoming, 3.0, alone=False, rtt=0.001) == needed - 8 * MIB
    assert incoming.window == needed


def test_a_slow_reader_keeps_what_it_has_when_it_is_alone() -> None:
    incoming = Incoming()
    flow(incoming, 1.0, alone=True)
    assert take(incoming, 2 * MIB, 60.0, spare=100 * MIB, alone=True) == 2 * MIB
    assert incoming.window == 8 * MIB


# --- sending -----------------------------------------------------------------------------


def joined(parts: list[bytes | memoryview]) -> bytes:
    return b"".join(parts)


def test_frames_are_cut_from_what_was_written() -> None:
    outgoing = Outgoing()
    for part in (b"abc", b"", b"defgh"):
        outgoing.add(part)
    assert outgoing.unsent == 8
    assert joined(outgoing.take(4)) == b"abcd"
    assert joined(outgoing.take(100)) == b"efgh"
    assert outgoing.take(100) == []
    assert outgoing.unsent == 0


def test_no_more_is_sent_than_the_peer_allows() -> None:
    outgoing = Outgoing()
    outgoing.add(bytes(MIB))
    assert len(joined(outgoing.take(MIB))) == INITIAL_WINDOW
    was_sendable = outgoing.sendable
    assert outgoing.take(MIB) == []
    outgoing.give(10)
    assert (was_sendable, outgoing.sendable) == (False, True)
    assert len(joined(outgoing.take(MIB))) == 10


def test_credit_is_a_number_of_32_bits() -> None:
    outgoing = Outgoing()
    outgoing.give(CREDIT_MAX - INITIAL_WINDOW)
    with pytest.raises(RemoteProtocolError, match="32 bits"):
        outgoing.give(1)


def test_a_writer_waits_above_the_bound() -> None:
    outgoing = Outgoing()
    outgoing.add(bytes(WRITE_BUFFER))
    assert not outgoing.full
    outgoing.add(b"x")
    assert outgoing.full


def test_the_end_needs_no_credit_but_an_empty_queue() -> None:
    outgoing = Outgoing()
    outgoing.credit = 0
    sendable = [outgoing.sendable]
    outgoing.add(b"x")
    outgoing.finishing = True
    sendable.append(outgoing.sendable)
    outgoing.give(1)
    outgoing.take(1)
    sendable.append(outgoing.sendable)
    outgoing.over = True
    assert [*sendable, outgoing.sendable] == [False, False, True, False]


def test_writes_learn_of_the_end() -> None:
    outgoing = Outgoing()
    outgoing.check()
    outgoing.finishing = True
    with pytest.raises(LocalProtocolError):
        outgoing.check()
    outgoing.add(b"unsent")
    outgoing.fail(Closed(ErrorCode.DRAIN))
    outgoing.fail(Reset(ErrorCode.DENIED))
    assert outgoing.unsent == 0
    assert outgoing.settled
    assert not outgoing.sendable
    with pytest.raises(Closed):
        outgoing.check()


@pytest.mark.parametrize("keep", [0, 1, 3, 4, 7, 8, 100])
def test_a_cancelled_write_keeps_a_prefix(keep: int) -> None:
    outgoing = Outgoing()
    for part in (b"abc", b"d", b"efgh"):
        outgoing.add(part)
    outgoing.trim(keep)
    assert outgoing.unsent == min(keep, 8)
    assert joined(outgoing.take(100)) == b"abcdefgh"[:keep]


def test_any_order_of_writes_credit_and_turns_sends_the_same() -> None:
    chance = random.Random(5)
    for _ in range(50):
        outgoing = Outgoing()
        outgoing.credit = 0
        written, sent = bytearray(), bytearray()
        while len(sent) < 20_000:
            match chance.randrange(3):
                case 0:
                    data = chance.randbytes(chance.randrange(3_000))
                    outgoing.add(data)
                    written += data
                case 1:
                    outgoing.give(chance.randrange(3_000))
                case 2:
                    sent += joined(outgoing.take(chance.randrange(1, 3_000)))
            assert outgoing.unsent == len(written) - len(sent)
        assert written.startswith(sent)


# --- both --------------------------------------------------------------------------------


def test_a_channel_is_over_when_both_directions_are() -> None:
    channel = Channel(1)
    assert channel.id == 0
    channel.incoming.over = True
    assert not channel.over
    channel.outgoing.over = True
    assert channel.over

"""Which ids mean what, how many channels there may be, and what they cost together."""

from __future__ import annotations

import pytest

from outrelay.lib.errors import RemoteProtocolError
from outrelay.lib.transport.tcp.channel import INITIAL_WINDOW, WINDOW, Channel
from outrelay.lib.transport.tcp.table import (
    GROWTH_MAX,
    LAST_ID,
    STREAMS,
    UNACKNOWLEDGED,
    Table,
)


def accepted(table: Table, number: int) -> Channel:
    channel = table.accept(number)
    assert channel is not None
    return channel


def ended(channel: Channel) -> Channel:
    channel.incoming.over = channel.outgoing.over = True
    return channel


@pytest.mark.parametrize(("dialled", "first", "theirs"), [(True, 1, 2), (False, 2, 1)])
def test_ids_of_either_side(dialled: bool, first: int, theirs: int) -> None:
    table = Table(dialled=dialled)
    ours = [table.open() for _ in range(3)]
    assert [channel.number for channel in ours] == [first, first + 2, first + 4]
    other = accepted(table, theirs)
    assert list(table) == [*ours, other]
    assert table.find(theirs) is other
    assert other in table
    for wrong, words in ((first + 6, "not the peer's"), (theirs, "opened before")):
        with pytest.raises(RemoteProtocolError, match=words):
            table.accept(wrong)
    for wrong in (first + 6, theirs + 2):
        with pytest.raises(RemoteProtocolError, match="nobody opened"):
            table.find(wrong)


def test_the_peer_may_leave_ids_out() -> None:
    table = Table(dialled=True)
    accepted(table, 10)
    assert table.find(4) is None  # as if it had been and gone
    with pytest.raises(RemoteProtocolError):
        table.accept(4)


def test_what_is_not_over_is_not_forgotten() -> None:
    table = Table(dialled=True)
    channel = table.open()
    channel.incoming.over = True
    assert not table.forget(channel)
    assert len(table) == 1
    channel.outgoing.over = True
    assert table.forget(channel)
    assert not table.forget(channel)
    assert table.find(1) is None
    assert channel not in table


def test_unacknowledged_streams_are_few() -> None:
    table = Table(dialled=True)
    channels = [table.open() for _ in range(UNACKNOWLEDGED)]
    full = [table.is_full]
    table.acknowledge(channels[0])
    table.acknowledge(channels[0])
    full.append(table.is_full)
    table.open()
    full.append(table.is_full)
    table.forget(ended(channels[1]))  # without having been acknowledged
    assert [*full, table.is_full] == [True, False, True, False]


def test_streams_are_limited_on_either_side() -> None:
    table = Table(dialled=True)
    ours = []
    for number in range(2, 2 * STREAMS + 1, 2):
        ours.append(table.open())
        table.acknowledge(ours[-1])
        accepted(table, number)
    assert table.is_full
    assert table.accept(2 * STREAMS + 2) is None
    other = table.find(2)
    assert other is not None
    assert not table.forget(ended(other))  # none of ours
    accepted(table, 2 * STREAMS + 4)
    was_full = table.is_full
    table.forget(ended(ours[0]))
    assert (was_full, table.is_full) == (True, False)


def test_ids_are_used_up_some_day() -> None:
    table = Table(dialled=True)
    table._next = LAST_ID
    was_used_up = table.is_used_up
    table.open()
    assert (was_used_up, table.is_used_up) == (False, True)


def test_windows_share_a_budget() -> None:
    table = Table(dialled=True)
    channels = [table.open() for _ in range(100)]
    grants = [table.grant(channel) for channel in channels]
    assert grants[0] == WINDOW - INITIAL_WINDOW
    assert sum(grants) == GROWTH_MAX
    assert channels[0].incoming.granted == WINDOW
    assert channels[-1].incoming.granted == INITIAL_WINDOW
    table.forget(ended(channels[0]))
    assert table.grant(channels[-1]) == grants[0]


def test_growth_counts_until_the_channel_is_forgotten() -> None:
    table = Table(dialled=True)
    channel = table.open()
    table.grant(channel)
    for turn in range(20):
        half = channel.incoming.window // 2
        channel.incoming.announce(half)
        channel.incoming.add(memoryview(bytes(half)))
        channel.incoming.settle()
        channel.incoming.read(half)
        assert table.credit(channel, turn * 0.01, rtt=0.1) >= half
    assert table._grown == channel.incoming.window - INITIAL_WINDOW > WINDOW
    table.forget(ended(channel))
    assert table._grown == 0


def bring(table: Table, channel: Channel, size: int, now: float) -> None:
    """Data for a channel, which is read at once."""
    channel.incoming.announce(size)
    channel.incoming.add(memoryview(bytes(size)))
    table.arrived(channel, channel.incoming.settle(), now)
    channel.incoming.read(size)


@pytest.mark.parametrize(
    ("other", "is_alone"),
    [
        pytest.param(1, True, id="the control stream"),
        pytest.param(5, False, id="another stream"),
    ],
)
def test_who_brings_nothing_shares_the_way_with_nobody(other: int, *, is_alone: bool) -> None:
    table = Table(dialled=True)
    channels = [table.open() for _ in range(3)]
    control, bulk, third = channels
    for channel in channels:
        table.grant(channel)
    for turn in range(12):  # at 500 MB/s, in quarters of a window
        bring(table, bulk, WINDOW // 4, now := 1.0 + turn * WINDOW / 2e9)
        table.credit(bulk, now, rtt=0.0)
    assert bulk.incoming.window == WINDOW  # it has not been alone for long
    for turn in range(12):
        bring(table, {1: control, 5: third}[other], 10, 2.0)
        bring(table, bulk, bulk.incoming.window // 4, now := 2.0 + turn * WINDOW / 2e9)
        table.credit(bulk, now, rtt=0.0)
    assert (bulk.incoming.window > WINDOW) is is_alone


def test_what_is_held_is_forgotten_too() -> None:
    table = Table(dialled=True)
    channel = table.open()
    channel.incoming.announce(5)
    channel.incoming.add(memoryview(b"bytes"))
    table.arrived(channel, channel.incoming.settle(), now=0.0)
    table.forget(ended(channel))
    assert table.held == 0


def test_all_are_forgotten_at_once() -> None:
    table = Table(dialled=True)
    table.open()
    table.clear()
    assert not table

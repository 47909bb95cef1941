"""Deadlines that move, of connections that come and go."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from outrelay.lib.transport.quic.native_timers import Timers


def test_nobody_wants_to_be_woken() -> None:
    timers = Timers()
    timers.set(1, None)

    assert timers.first() is None
    assert timers.take(100.0) == []


def test_the_earliest_comes_first_and_once() -> None:
    timers = Timers()
    timers.set(1, 5.0)
    timers.set(2, 3.0)

    assert timers.first() == 3.0
    assert timers.take(2.9) == []
    assert timers.take(5.0) == [2, 1]
    assert timers.take(5.0) == []


def test_a_deadline_moves_both_ways() -> None:
    timers = Timers()
    for deadline in (5.0, 9.0, 3.0, 7.0, 6.0):
        timers.set(1, deadline)

    assert timers.first() == 6.0
    assert timers.take(5.9) == []
    assert timers.take(6.0) == [1]
    assert timers.first() is None


def test_who_is_gone_is_not_woken_and_leaves_nothing() -> None:
    timers = Timers()
    timers.set(1, 5.0)
    timers.set(1, None)

    assert timers.take(9.0) == []
    assert (timers._marks, timers._marked, timers._deadlines) == ([], {}, {})


def test_a_busy_connection_costs_no_more_than_an_idle_one() -> None:
    timers = Timers()
    for packet in range(10_000):
        timers.set(1, 10.0 + packet)

    assert len(timers._marks) == 1
    assert timers.first() == 10_009.0


MOVES = st.lists(
    st.tuples(st.integers(1, 4), st.one_of(st.none(), st.integers(0, 20).map(float))), max_size=40
)


@settings(deadline=None)
@given(MOVES, st.integers(0, 20))
def test_it_says_what_a_plain_table_says(moves: list[tuple[int, float | None]], now: int) -> None:
    timers, table = Timers(), dict[int, float]()
    for number, deadline in moves:
        timers.set(number, deadline)
        table.pop(number, None)
        if deadline is not None:
            table[number] = deadline
        assert timers.first() == min(table.values(), default=None)
    due = timers.take(now)

    assert sorted(due) == sorted(number for number, at in table.items() if at <= now)
    assert timers.first() == min((at for at in table.values() if at > now), default=None)

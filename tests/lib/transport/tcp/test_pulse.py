"""When pings are sent, what their answers say, and when a peer is dead."""

from __future__ import annotations

import pytest

from outrelay.lib.transport.tcp.pulse import (
    HELLO,
    PING_IDLE,
    PING_SILENT,
    RECEIPT_DELAY,
    Pulse,
)

START = 1000.0


def pulse(*, dialled: bool = True, limit: float = 10.0) -> Pulse[str]:
    return Pulse(dialled=dialled, limit=limit, now=START)


def answered(beat: Pulse[str], now: float, *, busy: bool = False) -> list[str]:
    """What a ping sent now and answered at once brings."""
    beat.handle_timeout(now, busy=busy)
    value = beat.ask(now)
    assert value is not None
    beat.heard(now)
    return beat.answered(value, now)


@pytest.mark.parametrize("dialled", [True, False])
def test_the_first_ping_goes_out_at_once_and_says_who_we_are(dialled: bool) -> None:
    beat = pulse(dialled=dialled)
    was_due = beat.due
    assert beat.ask(START) == HELLO
    assert (was_due, beat.due) == (True, False)
    assert beat.ask(START) is None


@pytest.mark.parametrize(("busy", "interval"), [(False, 3.0), (True, 1.0)])
def test_the_dialling_side_pings_again_and_again(busy: bool, interval: float) -> None:
    beat = pulse()
    for number in range(3):
        now = START + number * interval
        assert answered(beat, now, busy=busy) == []
        assert beat.deadline(busy=busy) == now + interval
        beat.handle_timeout(now + interval * 0.99, busy=busy)
        assert beat.ask(now + interval * 0.99) is None


def test_a_ping_that_cannot_be_sent_yet_is_no_reason_to_look_again_and_again() -> None:
    beat = pulse()
    answered(beat, START)
    beat.handle_timeout(START + PING_IDLE, busy=False)
    assert beat.due
    assert beat.deadline(busy=False) == START + 10
    assert beat.ask(START + 4) is not None


def test_the_accepting_side_asks_after_a_silence() -> None:
    beat = pulse(dialled=False)
    answered(beat, START)
    beat.heard(START + 4)
    assert beat.deadline(busy=True) == START + 4 + PING_SILENT
    beat.handle_timeout(START + 8.9, busy=True)
    assert beat.ask(START + 8.9) is None
    beat.handle_timeout(START + 9, busy=True)
    assert beat.ask(START + 9) is not None


def test_a_short_limit_shortens_the_intervals() -> None:
    beat, other = pulse(limit=1.5), pulse(dialled=False, limit=1.5)
    answered(beat, START)
    answered(other, START)
    assert beat.deadline(busy=False) == START + 0.5
    assert other.deadline(busy=False) == START + 0.75


def test_values_differ_and_only_the_right_one_is_an_answer() -> None:
    beat = pulse()
    assert beat.answered(HELLO, START) == []  # nobody asked
    first = beat.ask(START)
    assert first is not None
    beat.want("a", START)
    assert beat.answered(first + 1, START) == []
    assert beat.answered(first, START) == []
    beat.handle_timeout(START + RECEIPT_DELAY, busy=False)
    second = beat.ask(START)
    assert second == first + 1
    assert beat.answered(first, START) == []
    assert beat.answered(second, START) == ["a"]


def test_a_receipt_waits_for_a_ping_behind_it() -> None:
    beat = pulse()
    value = beat.ask(START)
    assert value is not None
    beat.want("late", START)  # sent after the ping: its answer says nothing of it
    assert beat.deadline(busy=False) == START + 10
    assert beat.answered(value, START + 1) == []
    assert beat.deadline(busy=False) == START + RECEIPT_DELAY
    assert answered(beat, START + 1) == ["late"]
    assert not beat.due


def test_receipts_wait_for_each_other_but_not_for_long() -> None:
    beat = pulse()
    answered(beat, START)
    beat.want("first", START)
    beat.want("second", START + RECEIPT_DELAY / 2)
    beat.handle_timeout(START + RECEIPT_DELAY * 0.9, busy=False)
    was_due = beat.due
    beat.handle_timeout(START + RECEIPT_DELAY, busy=False)
    assert (was_due, beat.due) == (False, True)
    assert answered(beat, START + RECEIPT_DELAY) == ["first", "second"]


def test_receipts_of_a_session_that_ends_are_withdrawn() -> None:
    beat = pulse()
    beat.want("under way", START)
    beat.ask(START)
    beat.want("waiting", START)
    assert beat.withdraw() == ["under way", "waiting"]
    assert beat.withdraw() == []


def test_the_smallest_round_trip_counts() -> None:
    beat = pulse()
    assert beat.rtt == 0
    for number, took in enumerate([0.2, 0.05, 0.4]):
        now = START + 3.0 * number
        beat.handle_timeout(now, busy=False)
        value = beat.ask(now)
        assert value is not None
        beat.answered(value, now + took)
    assert beat.rtt == pytest.approx(0.05)


def test_no_sign_of_life_is_death() -> None:
    beat = pulse()
    beat.ask(START)
    assert beat.deadline(busy=False) == START + 10
    assert not beat.is_dead(START + 9.9)
    assert beat.is_dead(START + 10)
    beat.heard(START + 9.9)
    assert not beat.is_dead(START + 10)
    assert beat.deadline(busy=False) == START + 19.9

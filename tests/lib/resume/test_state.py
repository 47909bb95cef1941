"""One stream's account: checkpoints in their time, and what no honest peer says."""

from __future__ import annotations

import pytest

from outrelay.lib.errors import RemoteProtocolError, ResumeError
from outrelay.lib.resume.ring import Budget, Ring
from outrelay.lib.resume.state import (
    AFTER_CHANGE,
    AT_MOST_EVERY,
    EVERY_BYTES,
    PATIENCE_MOST,
    REPEAT,
    Checkpoint,
    StreamState,
)

START = 100.0


@pytest.fixture
def state() -> StreamState:
    """A stream that has just begun, its first checkpoint sent."""
    state = StreamState(Ring(1 << 20, Budget(1 << 20)), START)
    assert state.due_at() == START
    assert state.checkpoint(START) == told(0, 0)
    return state


def told(mine: int, ack: int, final: int | None = None) -> Checkpoint:
    return Checkpoint(my_position=mine, peer_ack_position=ack, final_position=final)


# ---- when ----------------------------------------------------------------------------------


def test_a_quiet_stream_says_nothing(state: StreamState) -> None:
    assert state.due_at() is None


def test_what_was_taken_is_told_a_moment_later(state: StreamState) -> None:
    state.take(10, START + 5)
    assert state.due_at() == START + 5 + AFTER_CHANGE
    state.take(10, START + 5.05)
    assert state.due_at() == START + 5.05 + AFTER_CHANGE
    assert state.checkpoint(START + 5.2) == told(0, 20)
    assert state.due_at() is None


def test_much_is_told_at_once_but_not_too_often(state: StreamState) -> None:
    state.take(EVERY_BYTES, START + 5)
    assert state.due_at() == START + AT_MOST_EVERY
    state.checkpoint(START + 5)
    state.take(EVERY_BYTES, START + 5)
    assert state.due_at() == START + 5 + AT_MOST_EVERY


def test_what_was_told_is_known(state: StreamState) -> None:
    was_told = state.is_told
    state.take(5, START + 1)
    before = state.is_told
    state.checkpoint(START + 2)
    assert (was_told, before, state.is_told) == (True, False, True)
    state.finish(START + 3)
    assert not state.is_told


def test_the_end_of_our_direction_is_told(state: StreamState) -> None:
    state.send(b"abc")
    state.finish(START + 2)
    assert state.due_at() == START + 1  # it is not acknowledged yet
    assert state.checkpoint(START + 2) == told(3, 0, final=3)


def test_whoever_waits_for_an_acknowledgement_repeats_itself(state: StreamState) -> None:
    state.send(b"abc")
    assert state.due_at() == START + REPEAT
    state.checkpoint(START + REPEAT)
    assert state.due_at() == START + 2 * REPEAT
    assert state.receive(told(0, 3))
    assert state.all_acknowledged
    assert state.due_at() is None


def test_a_peer_that_repeats_itself_is_answered_ever_more_slowly(state: StreamState) -> None:
    now, patience = START, []
    state.receive(told(5, 0))
    for _ in range(8):
        state.receive(told(5, 0))
        due = state.due_at()
        assert due is not None
        patience.append(due - now)
        now = due
        state.checkpoint(now)
        assert state.due_at() is None
    assert patience == [1, 2, 4, 8, 16, PATIENCE_MOST, PATIENCE_MOST, PATIENCE_MOST]
    state.receive(told(6, 0))
    state.receive(told(6, 0))
    assert state.due_at() == now + REPEAT


# ---- what the peer says --------------------------------------------------------------------


def test_an_acknowledgement_makes_room(state: StreamState) -> None:
    most = state.room
    state.send(b"x" * most)
    assert state.room == 0
    assert state.receive(told(0, most))
    assert state.room == most


def test_what_is_old_is_ignored(state: StreamState) -> None:
    state.send(b"abcdef")
    assert state.receive(told(9, 4, final=9))
    assert not state.receive(told(9, 2))
    assert not state.receive(told(3, 4))
    assert not state.receive(told(9, 4, final=9))
    assert state.peer_final == 9


@pytest.mark.parametrize(
    "last",
    [
        told(9, 7),  # never sent
        told(10, 3),  # older and newer
        told(8, 5),
        told(10, 4, final=11),  # an end it has not come to
        told(10, 4, final=2),  # an end before what has arrived
    ],
)
def test_what_no_honest_peer_says_is_an_error(state: StreamState, last: Checkpoint) -> None:
    state.send(b"abcdef")
    state.take(3, START)
    state.receive(told(9, 4))
    with pytest.raises(RemoteProtocolError):
        state.receive(last)


def test_an_end_that_is_told_late_counts_all_the_same(state: StreamState) -> None:
    """A resume tells no end; a checkpoint from before it, which does, may come behind it."""
    state.send(b"abcdef")
    assert b"".join(state.resume(told(9, 4))) == b"ef"
    assert state.is_answered
    assert not state.receive(told(9, 2, final=9))
    assert state.peer_final == 9


def test_an_end_that_is_told_late_is_the_end(state: StreamState) -> None:
    state.receive(told(9, 0))
    with pytest.raises(RemoteProtocolError):
        state.receive(told(8, 0, final=8))


def test_a_peer_does_not_go_on_behind_its_end(state: StreamState) -> None:
    state.receive(told(9, 0, final=9))
    with pytest.raises(RemoteProtocolError):
        state.receive(told(10, 0, final=10))


def test_an_end_before_what_was_taken_is_an_error(state: StreamState) -> None:
    state.take(5, START)
    with pytest.raises(RemoteProtocolError):
        state.receive(told(4, 0, final=4))


def test_an_end_of_the_leg_is_complete_or_cut_short(state: StreamState) -> None:
    state.take(5, START)
    assert not state.end_of_leg()  # nobody has said where it ends
    state.receive(told(6, 0, final=6))
    with pytest.raises(RemoteProtocolError):
        state.end_of_leg()
    state.take(1, START)
    assert state.end_of_leg()


# ---- another leg ---------------------------------------------------------------------------


def test_a_new_leg_begins_where_the_peer_is(state: StreamState) -> None:
    state.send(b"abc")
    state.send(b"def")
    assert b"".join(state.resume(told(0, 2))) == b"cdef"
    assert not state.all_acknowledged
    assert b"".join(state.resume(told(0, 6))) == b""
    assert state.all_acknowledged


def test_a_new_leg_after_the_peers_end(state: StreamState) -> None:
    state.receive(told(9, 0, final=9))
    assert b"".join(state.resume(told(9, 0))) == b""
    with pytest.raises(RemoteProtocolError):
        state.resume(told(10, 0))


def test_bytes_that_are_gone_cannot_be_sent_again(state: StreamState) -> None:
    state.send(b"abc")
    state.receive(told(0, 3))
    with pytest.raises(ResumeError, match="not kept any more"):
        state.resume(told(0, 2))


def test_a_peer_that_has_sent_less_than_arrived_is_another_one(state: StreamState) -> None:
    state.take(5, START)
    with pytest.raises(RemoteProtocolError):
        state.resume(told(4, 0))


def test_a_stream_that_is_over_holds_nothing() -> None:
    budget = Budget(100)
    state = StreamState(Ring(100, budget), START)
    state.send(b"abc")
    state.release()
    assert budget.held == 0

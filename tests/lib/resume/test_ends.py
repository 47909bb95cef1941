"""How a stream ends: which FIN goes out when, and who may leave."""

from __future__ import annotations

import pytest

from outrelay.lib.resume.ends import Ends, Phase
from outrelay.lib.resume.ring import Budget, Ring
from outrelay.lib.resume.state import Checkpoint, StreamState


class Side:
    """One agent's view of a stream on which both have sent three bytes."""

    def __init__(self, *, is_consumer: bool = True) -> None:
        self.state = StreamState(Ring(100, Budget(100)), 0.0)
        self.ends = Ends(self.state, is_consumer=is_consumer)
        self.state.send(b"abc")
        self.state.take(3, 0.0)

    def told(self, ack: int, final: int | None = None) -> None:
        """A checkpoint has come."""
        self.state.receive(Checkpoint(my_position=3, peer_ack_position=ack, final_position=final))

    def phase(self) -> Phase:
        """Where it is."""
        return self.ends.phase


@pytest.fixture(params=[True, False])
def side(request: pytest.FixtureRequest) -> Side:
    return Side(is_consumer=request.param)


def test_nothing_finishes_before_its_application(side: Side) -> None:
    assert not side.ends.finishes_at_once
    assert side.phase() is Phase.LIVE


def test_the_first_end_is_passed_on_at_once(side: Side) -> None:
    side.told(0)
    side.state.finish(0.0)
    assert side.ends.finishes_at_once
    side.ends.fin_sent = True
    assert not side.ends.finishes_at_once


def test_the_second_end_waits_until_everything_is_done(side: Side) -> None:
    side.told(0, final=3)
    side.state.finish(0.0)
    assert not side.ends.finishes_at_once
    side.ends.delivered = True
    assert (side.phase(), side.ends.is_acknowledged) == (Phase.LIVE, False)
    side.told(3, final=3)
    assert (side.phase(), side.ends.is_acknowledged) == (Phase.DONE, True)
    side.ends.fin_sent = True
    assert side.phase() is Phase.LINGERING
    side.ends.fin_read = True
    assert side.phase() is Phase.LINGERING
    side.ends.hear()
    assert side.phase() is Phase.LINGERING  # which may be what the peer says without our FIN
    side.ends.passed()
    assert side.phase() is Phase.OVER


def test_what_is_said_before_a_leg_was_lost_answers_no_fin_of_the_next(side: Side) -> None:
    side.told(3, final=3)
    side.state.finish(0.0)
    side.ends.delivered = side.ends.fin_sent = True
    side.ends.hear()  # the peer repeats itself: our FIN has not passed
    side.ends.lose_leg()
    side.ends.fin_sent = side.ends.fin_read = True
    side.ends.passed()
    assert (side.phase(), side.ends.may_be_left) == (Phase.LINGERING, False)
    side.ends.hear()
    assert side.phase() is Phase.OVER


def test_that_bytes_are_acknowledged_does_not_say_that_their_end_is_known(side: Side) -> None:
    side.told(3, final=3)
    side.ends.hear()
    side.state.finish(0.0)
    side.ends.delivered = side.ends.fin_read = True
    assert (side.phase(), side.ends.may_be_left) == (Phase.DONE, False)


def test_a_peer_without_checkpoints_is_not_waited_for(side: Side) -> None:
    side.state.peer_final = 3
    side.state.finish(0.0)
    assert side.ends.finishes_at_once
    side.ends.fin_sent = side.ends.fin_read = True
    assert side.phase() is Phase.SPENT
    side.ends.delivered = True
    assert side.phase() is Phase.OVER


@pytest.mark.parametrize("is_consumer", [True, False])
def test_after_a_loss_the_consumer_says_its_end_again(is_consumer: bool) -> None:
    side = Side(is_consumer=is_consumer)
    side.told(0)
    side.state.finish(0.0)
    side.ends.fin_sent = True
    side.ends.lose_leg()
    assert side.ends.finishes_at_once is is_consumer


def test_a_leg_is_spent_when_both_end_in_the_same_moment(side: Side) -> None:
    side.told(0)
    side.state.finish(0.0)
    side.ends.fin_sent = side.ends.fin_read = side.ends.delivered = True
    assert side.phase() is Phase.SPENT
    side.ends.lose_leg()
    assert side.phase() is Phase.LIVE
    assert side.ends.may_be_left


def test_a_stream_is_not_left_while_somebody_lacks_something(side: Side) -> None:
    side.told(0)
    side.state.finish(0.0)
    side.ends.fin_sent = True
    side.ends.lose_leg()
    assert not side.ends.may_be_left
    side.ends.delivered = side.ends.fin_sent = True
    side.told(3)
    assert not side.ends.may_be_left
    side.ends.hear()
    side.ends.passed()
    assert side.ends.may_be_left

"""The order of providers: priority, load, turn; rests that grow, and end."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from outrelay.relay.choice import FIRST_REST, LONGEST_REST, Candidate, Standing, in_order


def candidate(
    name: str,
    *,
    age: int = 0,
    priority: int = 0,
    weight: int = 0,
    streams: int = 0,
    standing: Standing | None = None,
) -> Candidate[str]:
    return Candidate(
        provider=name,
        age=age,
        priority=priority,
        weight=weight,
        streams=streams,
        standing=standing or Standing(),
    )


def order(*candidates: Candidate[str], now: float = 0.0) -> str:
    return "".join(each.provider for each in in_order(candidates, now))


def resting(until: float) -> Standing:
    return Standing(rest=FIRST_REST, failed_at=until - FIRST_REST)


def test_the_lower_priority_number_comes_first_then_the_lower_load_then_the_turn() -> None:
    assert order(candidate("b", priority=2), candidate("a", priority=1, streams=9)) == "ab"
    assert order(candidate("b", streams=2), candidate("a", streams=1)) == "ab"
    assert order(candidate("b", standing=Standing(turn=7)), candidate("a")) == "ab"
    assert order(candidate("a"), candidate("b")) == "ab"


def test_load_is_streams_by_weight_and_no_weight_is_one() -> None:
    assert order(candidate("b", streams=2), candidate("a", streams=5, weight=3)) == "ab"
    assert order(candidate("b", streams=2, weight=1), candidate("a", streams=1)) == "ab"
    assert order(candidate("a", streams=6, weight=2), candidate("b", streams=3, weight=1)) == "ab"


def test_older_processes_of_an_agent_stand_back_unless_the_newest_rests() -> None:
    newest = candidate("a", priority=9, streams=9)
    older, other = candidate("b", age=1), candidate("c", priority=9, streams=10)
    assert order(older, other, newest) == "acb"
    assert order(older, candidate("a", standing=resting(until=9.0))) == "ba"


def test_who_rests_comes_last_whatever_else() -> None:
    rested, rests = Standing(rest=5.0, failed_at=0.0), resting(until=9.0)
    first = candidate("b", standing=rests)
    other = candidate("a", priority=9, streams=9, standing=rested)
    assert order(first, other, now=8.9) == "ab"
    assert order(first, other, now=9.0) == "ba"


def test_rests_double_with_each_failure_up_to_a_minute_and_a_success_ends_that() -> None:
    standing, now, rests = Standing(), 100.0, []
    assert not standing.rests(now)
    for _ in range(7):
        assert standing.failed(now, now)
        assert not standing.failed(now, now)
        rests.append(standing.rest)
        assert standing.rests(now + standing.rest - 0.001)
        now += standing.rest
        assert not standing.rests(now)
    assert rests == [5, 10, 20, 40, 60, 60, 60]
    assert (FIRST_REST, LONGEST_REST) == (5, 60)

    standing.served()
    assert not standing.rests(now)
    standing.failed(now + 1, now + 1)
    assert standing.rest == FIRST_REST


def test_calls_that_were_under_way_together_are_one_failure() -> None:
    standing = Standing()
    assert standing.failed(asked_at=0.0, now=2.0)
    assert not standing.failed(asked_at=2.0, now=4.0)
    assert (standing.rest, standing.failed_at) == (FIRST_REST, 2.0)
    assert standing.failed(asked_at=2.1, now=4.1)
    assert (standing.rest, standing.failed_at) == (2 * FIRST_REST, 4.1)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 9), st.booleans())))
def test_the_order_is_of_everybody_and_nobody_better_comes_later(
    made: list[tuple[int, int, int, bool]],
) -> None:
    candidates = [
        candidate(
            str(number),
            priority=priority,
            weight=weight,
            streams=streams,
            standing=resting(until=1.0) if rests else None,
        )
        for number, (priority, weight, streams, rests) in enumerate(made)
    ]
    found = in_order(candidates, 0.0)
    assert sorted(found, key=lambda each: int(each.provider)) == candidates
    for one, other in pairwise(found):
        if one.standing.rests(0.0) == other.standing.rests(0.0):
            assert one.priority <= other.priority
            if one.priority == other.priority:
                assert one.streams * (other.weight or 1) <= other.streams * (one.weight or 1)
        else:
            assert other.standing.rests(0.0)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 40))
def test_streams_that_stay_are_shared_out_by_weight(one: int, other: int, rounds: int) -> None:
    weights, streams = {"a": one, "b": other}, {"a": 0, "b": 0}
    for _ in range(rounds * (one + other)):
        first, _ = in_order(
            [candidate(name, weight=weights[name], streams=streams[name]) for name in "ab"], 0.0
        )
        streams[first.provider] += 1
    assert abs(streams["a"] - rounds * one) <= 1

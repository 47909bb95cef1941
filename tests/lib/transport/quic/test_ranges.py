"""Ranges: the numbers that were added, in as few ranges as there can be."""

from __future__ import annotations

import pytest
from aioquic.quic.rangeset import RangeSet
from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.transport.quic.ranges import Ranges

spans = st.tuples(st.integers(0, 40), st.integers(1, 8)).map(lambda at: (at[0], at[0] + at[1]))


@given(st.lists(spans, max_size=30))
def test_they_are_what_aioquic_makes_of_them(added: list[tuple[int, int]]) -> None:
    ours, theirs = Ranges(), RangeSet()
    for start, stop in added:
        ours.add(start, stop)
        theirs.add(start, stop)

        assert list(ours) == list(theirs)
        assert len(ours) == len(theirs)
        assert ours[0] == theirs[0]


@given(st.lists(spans, min_size=1, max_size=30))
def test_the_first_is_taken_first(added: list[tuple[int, int]]) -> None:
    ranges = Ranges()
    for start, stop in added:
        ranges.add(start, stop)
    before = list(ranges)

    assert [ranges.shift() for _ in before] == before
    assert len(ranges) == 0


def test_there_is_no_first_of_none() -> None:
    with pytest.raises(IndexError):
        Ranges()[0]

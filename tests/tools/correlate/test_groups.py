"""Groups: the entries of a stream, in order, however many."""

from __future__ import annotations

from outrelay.tools.correlate.groups import HELD, groups, record
from outrelay.tools.correlate.sorting import Sorter

A, B = "00000000000000aa", "00000000000000bb"


def grouped(*records: bytes) -> list[tuple[str, int, int, int, list[tuple[int, bytes]]]]:
    return [
        (group.stream_id, group.events, group.first_ts, group.last_ts, list(group))
        for group in groups(sorted(records))
    ]


def test_entries_are_in_order_of_time_then_as_they_were_read() -> None:
    assert grouped(
        record(B, 1, 0, 0, b"b"),
        record(A, 9, 1, 0, b"late"),
        record(A, 5, 2, 0, b"z first"),
        record(A, 5, 3, 1, b"a second"),
    ) == [
        (A, 3, 5, 9, [(0, b"z first"), (1, b"a second"), (0, b"late")]),
        (B, 1, 1, 1, [(0, b"b")]),
    ]


def test_there_are_none() -> None:
    assert grouped() == []


def test_a_group_larger_than_what_is_held_can_be_read_again() -> None:
    number = HELD * 3
    with Sorter(memory=1000) as sorter:
        for each in range(number):
            sorter.add(record(A, number - each, each, 7, b"%d" % each))
        (group,) = groups(sorter)
        assert group.events == number
        assert (group.first_ts, group.last_ts) == (1, number)

    sorted_records = sorted(
        record(A, number - each, each, 7, b"%d" % each) for each in range(number)
    )
    for group in groups(sorted_records):
        expected = [(7, b"%d" % each) for each in reversed(range(number))]
        assert list(group) == expected
        assert list(group) == expected

"""The search for the datagram size of a path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.transport.quic.engine import DATAGRAM_SIZES
from outrelay.lib.transport.quic.pathsize import (
    LOSSES_IN_A_ROW,
    SEARCH_AGAIN,
    TRIES,
    PathSize,
)

NOW = 1000.0


@pytest.fixture
def path_size() -> PathSize:
    return PathSize(DATAGRAM_SIZES)


def raise_to(path_size: PathSize, size: int) -> None:
    while path_size.current < size:
        probe = path_size.next_probe(NOW)
        assert probe is not None
        assert path_size.probe_arrived(probe)


def test_datagrams_start_at_the_size_that_always_works(path_size: PathSize) -> None:
    assert path_size.current == 1200


def test_every_probe_that_arrives_raises_the_size_until_the_last(path_size: PathSize) -> None:
    sizes = []
    while (probe := path_size.next_probe(NOW)) is not None:
        assert path_size.probe_arrived(probe)
        sizes.append(path_size.current)

    assert sizes == [1280, 1400, 1452]


def test_one_probe_is_under_way_at_a_time(path_size: PathSize) -> None:
    assert path_size.next_probe(NOW) == 1280
    assert path_size.next_probe(NOW) is None
    path_size.probe_lost(1280, NOW)
    assert path_size.next_probe(NOW) == 1280


def test_a_size_that_is_lost_again_and_again_is_left_alone_for_a_while(
    path_size: PathSize,
) -> None:
    for _ in range(TRIES):
        assert path_size.next_probe(NOW) == 1280
        path_size.probe_lost(1280, NOW)

    assert path_size.next_probe(NOW) is None
    assert path_size.next_probe(NOW + SEARCH_AGAIN - 1) is None
    assert path_size.next_probe(NOW + SEARCH_AGAIN) == 1280
    assert path_size.current == 1200


def test_losses_of_one_size_do_not_count_for_the_next(path_size: PathSize) -> None:
    for _ in range(TRIES - 1):
        path_size.next_probe(NOW)
        path_size.probe_lost(1280, NOW)
    raise_to(path_size, 1280)

    assert path_size.next_probe(NOW) == 1400
    path_size.probe_lost(1400, NOW)
    assert path_size.next_probe(NOW) == 1400


def test_full_packets_that_vanish_bring_the_first_size_back(path_size: PathSize) -> None:
    raise_to(path_size, 1452)

    assert not path_size.lowered_by(LOSSES_IN_A_ROW - 1)
    assert path_size.current == 1452
    assert path_size.lowered_by(LOSSES_IN_A_ROW)
    assert path_size.current == 1200
    assert path_size.next_probe(NOW) == 1280


def test_the_first_size_falls_no_further(path_size: PathSize) -> None:
    assert not path_size.lowered_by(LOSSES_IN_A_ROW)
    assert path_size.current == 1200


def test_a_late_answer_to_a_smaller_probe_changes_nothing(path_size: PathSize) -> None:
    raise_to(path_size, 1400)

    assert not path_size.probe_arrived(1280)
    assert path_size.current == 1400


def test_the_loss_of_a_smaller_probe_is_no_loss_of_the_next_size(path_size: PathSize) -> None:
    raise_to(path_size, 1280)
    for _ in range(TRIES):
        path_size.probe_lost(1280, NOW)

    assert path_size.next_probe(NOW) == 1400


def test_a_single_size_is_never_probed() -> None:
    assert PathSize((1200,)).next_probe(NOW) is None


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("probe"), st.booleans()),
            st.tuples(st.just("timeouts"), st.integers(0, 4)),
            st.tuples(st.just("wait"), st.floats(0, 2 * SEARCH_AGAIN)),
        )
    ),
    st.integers(1200, 1500),
)
def test_the_size_is_always_one_that_a_probe_has_shown_to_pass(
    steps: list[tuple[str, float]], largest: int
) -> None:
    path_size, now = PathSize(DATAGRAM_SIZES), NOW
    for step, value in steps:
        if step == "wait":
            now += value
        elif step == "timeouts":
            path_size.lowered_by(int(value))
        elif (probe := path_size.next_probe(now)) is not None:
            if probe <= largest and value:
                path_size.probe_arrived(probe)
            else:
                path_size.probe_lost(probe, now)
        assert path_size.current <= max(largest, 1200)
        assert path_size.current in DATAGRAM_SIZES

"""Token buckets: a burst at once, a rate in the long run, a memory that forgets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.rates import Rates


def spent(rates: Rates[str], times: int, now: float, key: str = "one") -> int:
    """How often ``key`` got something, of so many tries."""
    return sum(rates.spend(key, now) for _ in range(times))


def test_a_burst_at_once_then_the_rate() -> None:
    rates = Rates[str](per_second=10.0, burst=5)

    assert spent(rates, 20, now=100.0) == 5
    assert spent(rates, 20, now=100.05) == 0
    assert spent(rates, 20, now=100.31) == 3
    assert spent(rates, 20, now=200.0) == 5  # never more than full


def test_asking_costs_nothing() -> None:
    rates = Rates[str](per_second=1.0, burst=1)

    assert all(rates.allows("one", 100.0) for _ in range(10))
    assert rates.spend("one", 100.0)
    assert not rates.allows("one", 100.5)
    assert rates.allows("one", 101.0)


def test_keys_do_not_share() -> None:
    rates = Rates[str](per_second=1.0, burst=2)

    assert spent(rates, 10, now=100.0, key="greedy") == 2
    assert spent(rates, 10, now=100.0, key="modest") == 2


@given(
    st.lists(st.floats(0.0, 0.5), max_size=60),
    st.floats(0.5, 50.0),
    st.integers(1, 10),
)
def test_in_any_time_it_is_the_burst_and_the_rate_at_most(
    pauses: list[float], per_second: float, burst: int
) -> None:
    rates = Rates[str](per_second=per_second, burst=burst)
    now, taken = 100.0, 0
    for pause in pauses:
        now += pause
        taken += rates.spend("one", now)

    assert taken <= burst + (now - 100.0) * per_second + 1e-6


def test_a_bucket_that_is_full_again_is_forgotten() -> None:
    rates = Rates[str](per_second=10.0, burst=5)
    for number in range(100):
        rates.spend(f"key-{number}", 100.0)
    assert len(rates) == 100

    rates.spend("another", 100.2)
    assert len(rates) == 1


def test_no_more_keys_are_remembered_than_told() -> None:
    rates = Rates[str](per_second=1.0, burst=1, most=10)
    for number in range(1_000):
        assert rates.spend(f"key-{number}", 100.0)
    assert len(rates) == 10

    assert not rates.spend("key-999", 100.0)
    assert rates.spend("key-0", 100.0)  # long forgotten


def test_who_was_in_use_last_is_forgotten_last() -> None:
    rates = Rates[str](per_second=0.1, burst=2, most=3)
    for key in ("old", "busy", "young", "busy", "new"):
        assert rates.spend(key, 100.0)

    assert not rates.allows("busy", 100.0)
    assert spent(rates, 5, now=100.0, key="old") == 2


@pytest.mark.parametrize("now", [0.0, 7.1, 1000.0, 98_765.4321])
def test_a_burst_is_whole_whatever_the_time(now: float) -> None:
    for per_second, burst in ((10, 20), (3, 7), (1000, 2000)):
        rates = Rates[str](per_second=per_second, burst=burst)
        assert [rates.spend("a", now) for _ in range(burst + 1)] == [True] * burst + [False]

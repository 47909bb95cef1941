"""Budgets of handshakes: who counts as one source, and what it may have."""

from __future__ import annotations

import pytest

from outrelay.lib.transport.budgets import Budgets, source_of

NOW = 1000.0


def budgets(*, under_way: int = 1000, per_second: float = 10.0, burst: int = 1000) -> Budgets:
    return Budgets(under_way=under_way, per_second=per_second, burst=burst)


def test_so_many_are_under_way_at_a_time() -> None:
    few = budgets(under_way=3)

    assert [few.take("a", NOW) for _ in range(5)] == [True, True, True, False, False]
    assert few.take("b", NOW)
    few.give_back("a")
    assert [few.take("a", NOW) for _ in range(2)] == [True, False]


def test_so_many_are_begun_in_a_second() -> None:
    slow = budgets(per_second=2.0, burst=3)
    for _ in range(3):
        assert slow.take("a", NOW)
        slow.give_back("a")

    assert not slow.take("a", NOW)
    assert slow.take("a", NOW + 0.5)
    assert not slow.take("a", NOW + 0.5)


def test_what_is_not_begun_costs_nothing() -> None:
    both = budgets(under_way=1, per_second=0.001, burst=2)
    assert both.take("a", NOW)
    assert not any(both.take("a", NOW) for _ in range(100))  # one is under way
    both.give_back("a")
    assert both.take("a", NOW)


def test_nothing_is_kept_of_who_has_gone() -> None:
    many = budgets(per_second=10.0, burst=10)
    for number in range(10_000):
        source = f"source-{number}"
        assert many.take(source, NOW)
        many.give_back(source)
    assert len(many._under_way) == 0
    assert len(many._rates) <= 4096

    many.take("one", NOW + 60.0)
    assert len(many._rates) == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_a_source_is_an_address_or_a_network(one: str, other: str, *, same: bool) -> None:
    assert (source_of(one) == source_of(other)) is same

"""Shares: nobody fills the room at the cost of another."""

from __future__ import annotations

import pytest

from outrelay.relay.audit.shares import Shares


def fill(shares: Shares, tenant: str, part: float = 1.0) -> int:
    """Take one by one until there is no room; how many there were."""
    taken = 0
    while shares.has_room(tenant, part=part):
        shares.take(tenant, 1)
        taken += 1
    return taken


def test_alone_a_tenant_fills_half_and_leaves_the_rest() -> None:
    assert fill(Shares(100), "acme") == 50


def test_a_tenant_that_took_all_it_could_leaves_room_for_others() -> None:
    shares = Shares(900)
    fill(shares, "greedy")
    assert fill(shares, "late") > 200
    assert not shares.has_room("greedy")
    assert shares.has_room("latest")


@pytest.mark.parametrize("tenants", [2, 5, 20])
def test_the_greedy_get_equal_shares_and_one_more_is_left(tenants: int) -> None:
    shares = Shares(10_000)
    names = [str(number) for number in range(tenants)]
    held = dict.fromkeys(names, 0)
    while willing := [name for name in names if shares.has_room(name)]:
        for name in willing:
            shares.take(name, 1)
            held[name] += 1
    share = 10_000 / (tenants + 1)
    assert all(share - tenants <= count <= share + tenants for count in held.values())
    assert shares.has_room("one more")


def test_a_part_of_a_share_leaves_the_rest_of_it() -> None:
    shares = Shares(300)
    assert fill(shares, "acme", part=0.5) == 100
    assert fill(shares, "acme") == 50


def test_what_is_given_back_may_be_taken_again() -> None:
    shares = Shares(100)
    fill(shares, "acme")
    shares.give_back("acme", 10)
    assert fill(shares, "acme") == 10


def test_who_holds_nothing_is_forgotten() -> None:
    shares = Shares(100)
    for tenant in ("a", "b"):
        shares.take(tenant, 1)
        assert shares.has_room("somebody")  # asking leaves no trace
    assert shares.tenants == 2
    shares.give_back("a", 1)
    assert shares.tenants == 1


def test_nobody_gives_back_what_he_does_not_hold() -> None:
    with pytest.raises(AssertionError):
        Shares(100).give_back("acme", 1)

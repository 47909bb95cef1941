"""Halves of streams: whom each of them meets, and whom it never does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.relay.matching import Half, Match, Role, match

A, B, C = (f"outrelay://acme/agent/0000000{n}-0000-4000-8000-000000000000" for n in (1, 2, 3))

CONSUMER = Half(tenant="acme", stream_id=7, agent=A, peer=B, service="db", role=Role.CONSUMER)
PROVIDER = Half(tenant="acme", stream_id=7, agent=B, peer=A, service="db", role=Role.PROVIDER)
PLAIN_A = Half(tenant="acme", stream_id=7, agent=A)
PLAIN_B = Half(tenant="acme", stream_id=7, agent=B)


def nobody(_consumer: Half, _provider: Half) -> str:
    return ""


def everybody(_consumer: Half, _provider: Half) -> str:
    return "db"


def b_offers(consumer: Half, provider: Half) -> str:
    return "db" if (consumer.agent, provider.agent) == (A, B) else ""


@pytest.mark.parametrize(
    ("one", "other"), [(CONSUMER, PROVIDER), (CONSUMER, PLAIN_B), (PLAIN_A, PROVIDER)]
)
def test_halves_that_expect_each_other_meet(one: Half, other: Half) -> None:
    for pair in ((one, other), (other, one)):
        found = match(*pair, nobody)
        assert found == Match(consumer=one, provider=other, service="db")


def test_what_one_knows_of_the_stream_counts() -> None:
    reads = replace(PROVIDER, method="read")
    found = Match(consumer=PLAIN_A, provider=reads, service="db", method="read")
    assert match(PLAIN_A, reads, nobody) == found
    assert match(reads, replace(CONSUMER, method="read"), nobody) is not None


@pytest.mark.parametrize("pair", [(PLAIN_A, PLAIN_B), (PLAIN_B, PLAIN_A)])
def test_two_that_expect_nobody_meet_where_policy_lets_one_call_the_other(
    pair: tuple[Half, Half],
) -> None:
    assert match(*pair, b_offers) == Match(consumer=PLAIN_A, provider=PLAIN_B, service="db")
    assert match(*pair, nobody) is None


@pytest.mark.parametrize(
    "stranger",
    [
        replace(PROVIDER, agent=C),
        replace(PROVIDER, agent=A),
        replace(PROVIDER, peer=C),
        replace(PROVIDER, tenant="other"),
        replace(PROVIDER, stream_id=8),
        replace(PROVIDER, service="vault"),
        replace(PROVIDER, method="read"),
        replace(PROVIDER, role=Role.CONSUMER),
        replace(PLAIN_B, agent=C),
    ],
)
def test_nobody_else_is_met(stranger: Half) -> None:
    assert match(CONSUMER, stranger, b_offers) is None
    assert match(stranger, CONSUMER, b_offers) is None


names = {
    "tenant": st.sampled_from(["acme", "other"]),
    "stream_id": st.sampled_from([7, 8]),
    "agent": st.sampled_from([A, B, C]),
}
halves = st.one_of(
    st.builds(Half, **names),
    st.builds(
        Half,
        **names,
        peer=st.sampled_from([A, B, C]),
        service=st.sampled_from(["db", "vault"]),
        method=st.sampled_from(["", "read"]),
        role=st.sampled_from([Role.CONSUMER, Role.PROVIDER]),
    ),
)


@given(halves, halves)
def test_the_order_of_arrival_does_not_matter(one: Half, other: Half) -> None:
    for may_call in (nobody, b_offers, everybody):
        assert match(one, other, may_call) == match(other, one, may_call)


@given(halves, halves)
def test_whoever_meets_is_expected(one: Half, other: Half) -> None:
    found = match(one, other, b_offers)
    if found is None:
        return
    assert found.service
    assert {found.consumer, found.provider} == {one, other}
    for half, met in ((one, other), (other, one)):
        assert half.key == met.key
        assert half.peer in ("", met.agent)
        assert half.service in ("", found.service)

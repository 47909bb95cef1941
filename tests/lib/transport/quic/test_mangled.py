"""Somebody on the way sends damaged copies of real datagrams: nobody notices."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lib.transport.quic.engines import agent, relay
from tests.support.mangling import converse

pytestmark = pytest.mark.usefixtures("each_engine")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=2, max_size=400))
def test_what_is_not_authentic_ends_no_connection(text: bytes) -> None:
    converse(agent(), relay(), text)


@pytest.mark.parametrize("seed", range(5))
def test_much_of_it_ends_no_connection(seed: int) -> None:
    assert converse(agent(), relay(), random.Random(seed).randbytes(20_000)) > 50


@pytest.mark.parametrize("seed", range(5))
def test_nor_where_addresses_must_be_proved(seed: int) -> None:
    proving = relay(retry_above=0)
    assert converse(agent(), proving, random.Random(seed).randbytes(2_000)) > 10

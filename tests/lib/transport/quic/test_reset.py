"""Stateless resets: tokens that a restarted process still knows, and the datagrams they end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.transport.quic.reset import (
    RATE,
    SHORTEST,
    TOKEN_LENGTH,
    StatelessResets,
    is_reset,
)
from tests.lib.transport.quic.engines import AGENT, RELAY

NOW = 1000.0
ID = b"8 bytes."


@pytest.fixture
def resets() -> StatelessResets:
    return StatelessResets(RELAY)


def test_the_next_process_with_the_key_makes_the_same_tokens(resets: StatelessResets) -> None:
    assert resets.token(ID) == StatelessResets(RELAY).token(ID)
    assert len(resets.token(ID)) == TOKEN_LENGTH


def test_other_ids_and_other_keys_have_other_tokens(resets: StatelessResets) -> None:
    tokens = {resets.token(ID), resets.token(b"another."), StatelessResets(AGENT).token(ID)}

    assert len(tokens) == 3


def test_tokens_come_from_the_key_that_the_next_process_will_have(resets: StatelessResets) -> None:
    resets.use(AGENT)
    assert resets.token(ID) == StatelessResets(AGENT).token(ID)


@given(st.integers(0, 1500))
def test_an_answer_is_shorter_than_what_it_answers_and_looks_like_a_packet(received: int) -> None:
    resets = StatelessResets(RELAY)
    answer = resets.answer(ID, received, NOW)

    if received <= SHORTEST:
        assert answer is None
    else:
        assert answer is not None
        assert SHORTEST <= len(answer) < received
        assert answer[0] & 0xC0 == 0x40
        assert is_reset(answer, [resets.token(ID)])


def test_two_forgetful_peers_come_to_an_end(resets: StatelessResets) -> None:
    size, answers = 1452, 0
    while (answer := resets.answer(ID, size, NOW)) is not None:
        size, answers = len(answer), answers + 1

    assert answers <= 21


def test_a_flood_is_answered_at_a_limited_rate(resets: StatelessResets) -> None:
    def answered(second: float) -> int:
        return sum(resets.answer(ID, 1200, second) is not None for _ in range(3 * RATE))

    assert answered(NOW) == RATE
    assert answered(NOW + 0.9) == 0
    assert answered(NOW + 1.0) == RATE


def test_no_two_answers_are_alike(resets: StatelessResets) -> None:
    assert resets.answer(ID, 1200, NOW) != resets.answer(ID, 1200, NOW)


@given(st.binary(max_size=60), st.lists(st.binary(min_size=16, max_size=16), max_size=3))
def test_a_reset_ends_in_a_token_we_know(datagram: bytes, tokens: list[bytes]) -> None:
    expected = len(datagram) >= SHORTEST and datagram[-TOKEN_LENGTH:] in tokens

    assert is_reset(datagram, tokens) == expected
    assert not is_reset(datagram, [])


def test_a_token_alone_is_too_short_for_a_reset(resets: StatelessResets) -> None:
    token = resets.token(ID)

    assert not is_reset(bytes(SHORTEST - 1 - TOKEN_LENGTH) + token, [token])
    assert is_reset(bytes(SHORTEST - TOKEN_LENGTH) + token, [token])

"""Who may begin a handshake, by the numbers; ``test_handshake_limits`` has the engines do it."""

from __future__ import annotations

from typing import Any

import pytest

from outrelay.lib.transport.quic.engine import EngineOptions
from outrelay.lib.transport.quic.gate import Gate, Ticket
from outrelay.lib.transport.quic.header import parse_header
from outrelay.lib.transport.refusal import Cause
from tests.lib.transport.quic.engines import AGENT, PKI
from tests.support.hostile_quic import Hello

HERE = ("198.51.100.7", 1)


def gate(**limits: Any) -> Gate:
    return Gate(EngineOptions(credentials=AGENT, trust=PKI.trust, **limits))


def test_a_ticket_is_room_again_when_it_comes_back() -> None:
    one = gate(handshakes_max=1)
    ticket = one.admit(HERE, proven=False, now=0.0)
    assert isinstance(ticket, Ticket)
    assert one.is_full
    assert one.admit(HERE, proven=True, now=0.0) is Cause.LIMIT

    one.over(ticket)
    assert not one.is_full


@pytest.mark.parametrize("limits", [{"retry_above": 0}, {"source_handshakes": 0}])
def test_who_has_not_proved_its_address_is_asked_to_under_load(limits: dict[str, int]) -> None:
    assert gate(**limits).admit(HERE, proven=False, now=0.0) is None


def test_a_proven_source_has_a_budget_of_its_own() -> None:
    busy = gate(source_handshakes=1)
    busy.admit(HERE, proven=False, now=0.0)

    assert isinstance(busy.admit(HERE, proven=True, now=0.0), Ticket)
    assert busy.admit(HERE, proven=True, now=0.0) is Cause.SOURCE_LIMIT


def test_where_nobody_may_dial_every_datagram_is_noise() -> None:
    header = parse_header(Hello().initial())
    assert header is not None

    assert gate().fault_of(header, 1200) is Cause.NOISE


def test_refusals_are_told_once() -> None:
    deaf = gate()
    deaf.refuse(Cause.NOISE, HERE)
    deaf.refuse(Cause.NOISE, HERE)

    assert [(each.cause, each.times) for each in deaf.take_refusals()] == [(Cause.NOISE, 2)]
    assert deaf.take_refusals() == []

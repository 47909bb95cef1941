"""The table of halves: who joins is told, whatever becomes of the one that waited."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from outrelay.lib.errors import ErrorCode
from outrelay.relay.edge.claim import Claim
from outrelay.relay.edge.halves import Halves, Meeting, Party
from outrelay.relay.edge.session import Session
from outrelay.relay.matching import Half, Role
from outrelay.relay.splice import Leg
from tests.support.peers import AGENT_A, AGENT_B

CONSUMER = Half(
    tenant="acme", stream_id=7, agent=AGENT_A.uri, peer=AGENT_B.uri, service="db", role=Role(1)
)
PROVIDER = Half(
    tenant="acme", stream_id=7, agent=AGENT_B.uri, peer=AGENT_A.uri, service="db", role=Role(2)
)


def party(half: Half) -> Party:
    claim = Claim(half=half, my_position=0, peer_ack_position=0)
    return Party(claim=claim, session=cast(Session, None), leg=cast(Leg, None))


def table() -> Halves:
    return Halves(lambda _consumer, _provider: "")


async def test_who_joins_meets_the_one_that_waits() -> None:
    halves, first, second = table(), party(CONSUMER), party(PROVIDER)
    assert not halves.join(first)
    with halves.wait(first) as waiting:
        assert len(halves) == 1
        assert halves.join(second)
        met = await waiting.met
        assert isinstance(met, Meeting)
        assert met.joined is second
        assert met.match.consumer is CONSUMER
        second.decide(None)
        assert len(halves) == 0
    assert second.decided.result() is None


async def test_who_joined_is_told_when_the_other_one_is_lost_at_that_moment() -> None:
    halves, first, second = table(), party(CONSUMER), party(PROVIDER)
    with pytest.raises(asyncio.CancelledError), halves.wait(first):
        halves.join(second)
        raise asyncio.CancelledError
    assert second.decided.result() is ErrorCode.LEG_LOST


async def test_a_half_that_left_is_met_by_nobody() -> None:
    halves, first = table(), party(CONSUMER)
    with halves.wait(first) as waiting:
        waiting.met.cancel()
    assert len(halves) == 0
    assert not halves.join(party(PROVIDER))


async def test_one_that_was_superseded_does_not_take_the_new_ones_place_with_it() -> None:
    halves, first, again = table(), party(CONSUMER), party(CONSUMER)
    with halves.wait(first) as waiting:
        assert not halves.join(again)
        with halves.wait(again):
            assert await waiting.met is ErrorCode.LEG_LOST
            waiting.__exit__(None, None, None)
            assert len(halves) == 1


async def test_all_are_sent_away_once() -> None:
    halves, first = table(), party(CONSUMER)
    with halves.wait(first) as waiting:
        halves.end(ErrorCode.DRAIN)
        waiting.tell(ErrorCode.LEG_LOST)
        assert await waiting.met is ErrorCode.DRAIN

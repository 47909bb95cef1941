"""Live streams end when policy allows them no longer; the others feel nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from outrelay.lib.errors import ErrorCode, Reset
from outrelay.lib.observe.metrics import PolicyMetrics
from outrelay.lib.policy import Decision, PolicySet, Verdict
from outrelay.lib.tasks import beside
from outrelay.lib.transport.carrier import Stream
from outrelay.relay import revoke
from outrelay.relay.call import Call
from outrelay.relay.clock import unix_ms
from outrelay.relay.policy.judge import Judge
from outrelay.relay.revoke import Revoker
from tests.relay.rooms import ALLOW_ALL, Rooms, relay_rooms, rule
from tests.support.peers import AGENT_A, AGENT_B, AgentPeer, accept, rejection
from tests.support.turns import until
from tests.support.virtual_loop import elapsed

DENY = rule("echo", rule_id="no", decision=Decision.DENY)


async def spliced(
    consumer: AgentPeer, provider: AgentPeer, service: str, stream_id: int
) -> tuple[Stream, Stream]:
    near = await consumer.open(service, stream_id=stream_id)
    far, _ = await provider.incoming()
    await accept(far)
    await consumer.ready()
    await provider.ready()
    return near, far


async def assert_passes(near: Stream, far: Stream) -> None:
    await near.write(b"still here")
    assert await far.read() == b"still here"


async def assert_denied(stream: Stream) -> None:
    with pytest.raises(Reset) as caught:
        await stream.read()
    assert caught.value.code is ErrorCode.DENIED


def revoker(relay: Rooms, now_ms: int = 0) -> Revoker:
    return Revoker(relay.judge, relay.pairs, relay.trail, now_ms=lambda: now_ms)


async def test_what_is_denied_ends_and_is_recorded_what_is_allowed_goes_on() -> None:
    async with relay_rooms() as relay:
        provider = await relay.provider()
        await provider.register("other")
        consumer = await relay.agent(AGENT_A)
        near, far = await spliced(consumer, provider, "echo", 1)
        kept = await spliced(consumer, provider, "other", 2)
        async with beside(revoker(relay).run(), name="test: revoker"):
            relay.judge.add(DENY)
            await assert_denied(near)
            await assert_denied(far)
            await until(lambda: len(relay.pairs) == 1)
            await assert_passes(*kept)

        (event,) = relay.events("revoke")
        assert event.stream_id == f"{1:016x}"
        assert "no" in event.reason


async def test_what_its_provider_takes_no_longer_ends() -> None:
    closed = replace(rule("outrelay://nobody/*", rule_id="own"), caller_pattern=AGENT_B.uri)
    async with relay_rooms() as relay:
        provider, consumer = await relay.provider(), await relay.agent(AGENT_A)
        near, far = await spliced(consumer, provider, "echo", 1)
        relay.judge.add(closed)
        await revoker(relay).judge_all()
        assert len(relay.events("revoke")) == 1
        await assert_denied(near)
        await assert_denied(far)


@pytest.mark.virtual_time
async def test_it_ends_within_a_second() -> None:
    async with relay_rooms() as relay:
        provider, consumer = await relay.provider(), await relay.agent(AGENT_A)
        near, far = await spliced(consumer, provider, "echo", 1)
        async with beside(revoker(relay).run(), name="test: revoker"):
            await asyncio.sleep(10.2)
            relay.judge.add(DENY)
            await assert_denied(near)
            await assert_denied(far)
            assert elapsed() < 11.2


async def test_a_replaced_rule_set_that_still_allows_is_not_felt() -> None:
    async with relay_rooms() as relay:
        provider, consumer = await relay.provider(), await relay.agent(AGENT_A)
        both = await spliced(consumer, provider, "echo", 1)
        fresh = PolicySet()
        fresh.add(rule("ech*", rule_id="new"))
        relay.judge.replace(fresh)
        await revoker(relay).judge_all()
        await assert_passes(*both)
        assert not relay.events("revoke")


async def test_an_emptied_controller_ends_nothing() -> None:
    async with relay_rooms() as relay:
        provider, consumer = await relay.provider(), await relay.agent(AGENT_A)
        both = await spliced(consumer, provider, "echo", 1)
        relay.judge.revised.clear()
        relay.judge.replace(PolicySet())
        assert not relay.judge.revised.is_set()
        await assert_passes(*both)


async def test_the_last_rule_removed_by_hand_ends_what_it_allowed() -> None:
    async with relay_rooms() as relay:
        provider, consumer = await relay.provider(), await relay.agent(AGENT_A)
        near, _ = await spliced(consumer, provider, "echo", 1)
        async with beside(revoker(relay).run(), name="test: revoker"):
            relay.judge.remove("acme", ALLOW_ALL.id)
            await assert_denied(near)


async def test_a_stream_that_is_still_being_opened_is_refused() -> None:
    async with relay_rooms() as relay:
        provider, consumer = await relay.provider(), await relay.agent(AGENT_A)
        near = await consumer.open("echo", stream_id=1)
        far, _ = await provider.incoming()
        relay.judge.add(DENY)
        await revoker(relay).judge_all()
        await accept(far)
        assert (await rejection(near))[0] == 403
        await assert_denied(far)


async def test_others_have_their_turn_however_many_are_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(revoke, "TURN", 1)
    async with relay_rooms() as relay:
        provider, consumer = await relay.provider(), await relay.agent(AGENT_A)
        for stream_id in (1, 2, 3):
            await spliced(consumer, provider, "echo", stream_id)
        order, judge_live = [], relay.judge.judge_live

        def judging(call: Call, provider: str) -> Verdict:
            order.append("judged")
            return judge_live(call, provider)

        async def others() -> None:
            for _ in range(3):
                order.append("others")
                await asyncio.sleep(0)

        monkeypatch.setattr(relay.judge, "judge_live", judging)
        await asyncio.gather(revoker(relay).judge_all(), others())
        assert order == ["judged", "others"] * 3


async def test_a_stream_that_ended_while_others_were_judged_is_not_revoked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with relay_rooms() as relay:
        provider, consumer = await relay.provider(), await relay.agent(AGENT_A)
        for stream_id in (1, 2):
            await spliced(consumer, provider, "echo", stream_id)
        judge_live = relay.judge.judge_live

        def judging(call: Call, provider: str) -> Verdict:
            for pair in relay.pairs:
                if pair.call is not call:
                    pair.over.set()
            return judge_live(call, provider)

        relay.judge.add(DENY)
        monkeypatch.setattr(relay.judge, "judge_live", judging)
        await revoker(relay).judge_all()
        assert [event.stream_id for event in relay.events("revoke")] == [f"{1:016x}"]


def test_an_expiry_is_noticed_once() -> None:
    judge = Judge(PolicyMetrics(CollectorRegistry()))
    judge.count(Verdict(allow=True, rule=None, reason="", expires_ms=2_000))
    judge.count(Verdict(allow=True, rule=None, reason="", expires_ms=1_000))
    judge.count(Verdict(allow=False, rule=None, reason="", expires_ms=10))
    assert not judge.expired(999)
    assert judge.expired(1_000)
    assert not judge.expired(1_000)


@pytest.mark.virtual_time
@pytest.mark.parametrize("is_later", [False, True], ids=["the first", "a later one"])
async def test_a_rule_that_expires_ends_what_it_allowed(
    is_later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another one allowed the stream at first."""
    now = unix_ms()
    soon = replace(rule("echo", rule_id="soon"), expires_ms=now + 60_000)
    async with relay_rooms(rules=[ALLOW_ALL if is_later else soon]) as relay:
        monkeypatch.setattr(relay.judge, "_now_ms", lambda: now)
        provider, consumer = await relay.provider(), await relay.agent(AGENT_A)
        near, far = await spliced(consumer, provider, "echo", 1)
        live = Revoker(relay.judge, relay.pairs, relay.trail, now_ms=lambda: now)
        async with beside(live.run(), name="test: revoker"), asyncio.timeout(10):
            relay.judge.replace(PolicySet([soon]))
            await asyncio.sleep(3.1)
            await assert_passes(near, far)
            now += 60_000
            await assert_denied(near)
        assert 3.1 < elapsed() < 4.1

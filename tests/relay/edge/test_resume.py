"""Streams that go on: whose halves meet, what both hear of it, who is kept out."""

from __future__ import annotations

import asyncio
import struct
from unittest.mock import Mock

import pytest

from outrelay.lib.errors import ErrorCode
from outrelay.lib.orp.frame import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.policy import Decision, P2PMode, PolicySet, RelayMode, Rule
from outrelay.relay.call import Call
from outrelay.relay.edge.resume import CALL_AFTER
from outrelay.relay.limits import Bounds, Limits
from outrelay.relay.pairs import Pair
from outrelay.relay.splice import Splice
from tests.relay.edge.resuming import (
    CONSUMERS,
    PROVIDERS,
    assert_ended,
    claim,
    echo,
    offer,
    resume,
)
from tests.relay.rooms import ALLOW_ALL, call, relay_rooms, rule, severed
from tests.support.peers import (
    AGENT_A,
    AGENT_B,
    AGENT_C,
    FEATURES,
    STRANGER,
    accept,
    read_all,
    rejection,
)
from tests.support.turns import everybody_waits, until
from tests.support.virtual_loop import elapsed

PROVIDER = orp.Role.PROVIDER

# ---- two halves --------------------------------------------------------------------------------


@pytest.mark.parametrize("consumer_first", [True, False])
async def test_two_halves_become_one_stream(consumer_first: bool) -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        provider = await relay.agent(AGENT_B, *FEATURES)
        if consumer_first:
            near = await offer(consumer, CONSUMERS)
            await everybody_waits()
            far = await offer(provider, PROVIDERS)
        else:
            far = await offer(provider, PROVIDERS)
            await everybody_waits()
            near = await offer(consumer, CONSUMERS)

        assert (await echo(near))[0] == PROVIDERS
        assert (await echo(far))[0] == CONSUMERS
        await near.write(b"up")
        near.finish()
        assert await read_all(far) == b"up"
        await far.write(b"down, later")
        far.finish()
        assert await read_all(near) == b"down, later"
        await until(lambda: len(relay.pairs) == 0)

        resumed, closed = relay.events("resume", "close")
        assert (resumed.event, resumed.caller, resumed.provider, resumed.target) == (
            "resume",
            AGENT_A.uri,
            AGENT_B.uri,
            "echo",
        )
        assert resumed.stream_id == "0000000000000007"
        assert (closed.reason, closed.bytes_up, closed.bytes_down) == ("finished", 2, 11)
        assert relay.metric("outrelay_resumes_total", result="resumed") == 1
        assert relay.metric("outrelay_streams_open") == 0
        assert relay.metric("outrelay_in_use", what="halves") == 0


async def test_a_half_of_a_plain_agent_gets_what_it_knows() -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A)
        provider = await relay.agent(AGENT_B, *FEATURES)
        near = await offer(consumer, orp.StreamResume(stream_id=7, my_position=1))
        far = await offer(provider, PROVIDERS)

        told, _ = await echo(near)
        assert told == orp.StreamResume(stream_id=7, my_position=50, peer_ack_position=70)
        assert (await echo(far))[0] == orp.StreamResume(stream_id=7, my_position=1)


async def test_two_plain_halves_meet_where_one_may_call_the_other() -> None:
    async with relay_rooms(rules=[rule("echo", caller=AGENT_A.uri)]) as relay:
        provider = await relay.provider(AGENT_B, "vault", "unheard-of/9")
        await provider.register("echo")
        consumer = await relay.agent(AGENT_A)
        far = await offer(provider, orp.StreamResume(stream_id=7))
        near = await offer(consumer, orp.StreamResume(stream_id=7))
        await echo(far)
        await echo(near)

        assert [event.target for event in relay.events("resume")] == ["echo"]


async def test_two_plain_halves_byte_for_byte() -> None:
    """STREAM_RESUME of stream 7 as another implementation writes it, and what it gets back."""
    consumers = bytes.fromhex("2111 0000 00000006 0807 1005 1803")
    providers = bytes.fromhex("2111 0000 00000007 0807 10ac02 1805")
    async with relay_rooms(rules=[rule("echo", caller=AGENT_A.uri)]) as relay:
        provider = await relay.provider(AGENT_B, "echo", "unheard-of/9")
        consumer = await relay.agent(AGENT_A)
        near, far = [await each.connection.open_stream() for each in (consumer, provider)]
        await near.write(consumers)
        await everybody_waits()
        await far.write(providers)
        await far.write(b"down")
        far.finish()
        assert await read_all(near) == providers + b"down"
        await near.write(b"up")
        near.finish()
        assert await read_all(far) == consumers + b"up"


async def test_two_plain_halves_that_may_not_call_each_other_are_kept_apart() -> None:
    async with relay_rooms(rules=[]) as relay:
        provider = await relay.provider(AGENT_B, "echo", "unheard-of/9")
        consumer = await relay.agent(AGENT_A)
        await offer(provider, orp.StreamResume(stream_id=7))
        near = await offer(consumer, orp.StreamResume(stream_id=7))
        assert (await rejection(near))[0] == 409


async def test_bytes_behind_the_claim_are_passed_on_behind_the_echo() -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        provider = await relay.agent(AGENT_B, *FEATURES)
        near = await offer(consumer, CONSUMERS, behind=b"one ")
        await everybody_waits()
        await near.write(b"two ")
        await everybody_waits()
        far = await offer(provider, PROVIDERS, behind=b"back")
        await near.write(b"three")
        near.finish()
        far.finish()

        _, first = await echo(far)
        assert first + await read_all(far) == b"one two three"
        _, first = await echo(near)
        assert first + await read_all(near) == b"back"


# ---- a leg is lost -----------------------------------------------------------------------------


async def test_the_one_whose_peers_connection_is_lost_resumes_where_it_is() -> None:
    async with relay_rooms() as relay:
        both = await call(relay)
        severed(both.consumer)
        await assert_ended(both.far, ErrorCode.LEG_LOST)
        again = await relay.agent(AGENT_A, *FEATURES)

        stream = await resume(again, both.provider)
        await stream.near.write(b"again")
        assert await stream.far.read() == b"again"
        assert [event.event for event in relay.events("open", "close", "resume")] == [
            "open",
            "close",
            "resume",
        ]
        severed(again)
        await assert_ended(stream.far, ErrorCode.LEG_LOST)


async def test_a_lost_provider_ends_the_consumers_leg() -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        provider = await relay.agent(AGENT_B, *FEATURES)
        far = await offer(provider, PROVIDERS)  # its task carries the stream
        await everybody_waits()
        near = await offer(consumer, CONSUMERS)
        await echo(near)
        await echo(far)
        severed(provider)
        await assert_ended(near, ErrorCode.LEG_LOST)
        await until(lambda: len(relay.pairs) == 0)
        (closed,) = relay.events("close")
        assert closed.reason == "the provider's connection is gone (LEG_LOST)"


@pytest.mark.parametrize("consumer_leaves", [True, False])
async def test_a_half_supersedes_its_agents_leg_of_a_live_stream(consumer_leaves: bool) -> None:
    async with relay_rooms() as relay:
        both = await call(relay)
        if consumer_leaves:
            again = await relay.agent(AGENT_A, *FEATURES)  # the old connection is still up
            near = await offer(again, CONSUMERS)
            await assert_ended(both.far, ErrorCode.LEG_LOST)
            far = await offer(both.provider, PROVIDERS)
        else:
            again = await relay.agent(AGENT_B, *FEATURES)
            far = await offer(again, PROVIDERS)
            await assert_ended(both.near, ErrorCode.LEG_LOST)
            near = await offer(both.consumer, CONSUMERS)
        assert (await echo(near))[0] == PROVIDERS
        assert (await echo(far))[0] == CONSUMERS
        await far.write(b"down")
        assert await near.read() == b"down"
        assert len(relay.pairs) == 1


async def test_both_may_leave_a_live_stream_at_once() -> None:
    async with relay_rooms() as relay:
        both = await call(relay)
        stream = await resume(both.consumer, both.provider)
        await stream.near.write(b"up")
        assert await stream.far.read() == b"up"
        await assert_ended(both.near, ErrorCode.LEG_LOST)


async def test_a_relay_that_wakes_takes_the_new_connections_for_the_old_ones() -> None:
    """It was frozen: what the agents gave up long ago is still alive to it."""
    async with relay_rooms() as relay:
        instances = {AGENT_A: b"a" * 16, AGENT_B: b"b" * 16}
        old = [await relay.agent(who, *FEATURES, instance=it) for who, it in instances.items()]
        await old[1].register("echo")
        both = await call(relay, consumer=old[0], provider=old[1])
        await both.near.write(b"said before it froze")
        new = [await relay.agent(who, *FEATURES, instance=it) for who, it in instances.items()]
        stream = await resume(*new)
        for each in old:
            assert (await each.connection.wait_closed()).code is ErrorCode.REPLACED
        await stream.near.write(b"said to the one that woke")
        stream.near.finish()
        assert await read_all(stream.far) == b"said to the one that woke"
        assert len(relay.pairs) == 1
        assert len(relay.directory.providers("acme", "echo")) == 1


async def test_halves_wait_until_the_stream_they_left_has_ended() -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        provider = await relay.agent(AGENT_B, *FEATURES)
        (ours,), (theirs,) = relay.roster.of(AGENT_A.uri), relay.roster.of(AGENT_B.uri)
        left = Mock(spec=Splice)
        asked = Call(tenant="acme", caller=AGENT_A.uri, service="echo", stream_id=7)
        with relay.pairs.holding(Pair(call=asked, consumer=ours, provider=theirs, splice=left)):
            near = await offer(consumer, CONSUMERS)
            far = await offer(provider, PROVIDERS)
            await everybody_waits()
            assert left.abandon.call_args_list[0].args[0] is ErrorCode.LEG_LOST
            assert relay.events("resume") == []
        await echo(near)
        await echo(far)


async def test_a_half_offered_anew_takes_the_first_ones_place() -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        provider = await relay.agent(AGENT_B, *FEATURES)
        first = await offer(consumer, CONSUMERS)
        await everybody_waits()
        again = await offer(consumer, CONSUMERS)
        await assert_ended(first, ErrorCode.LEG_LOST)
        far = await offer(provider, PROVIDERS)
        await echo(again)
        await echo(far)


# ---- who is kept out ---------------------------------------------------------------------------


async def test_a_third_one_is_refused_while_the_stream_lives() -> None:
    async with relay_rooms() as relay:
        both = await call(relay)
        thief = await relay.agent(AGENT_C, *FEATURES)
        for half in (claim(AGENT_B), claim(AGENT_A, role=orp.Role.PROVIDER), CONSUMERS):
            code, reason = await rejection(await offer(thief, half))
            assert (code, reason) == (409, "stream id already in use")
        await both.near.write(b"still here")
        assert await both.far.read() == b"still here"
        assert {(event.caller, event.stream_id) for event in relay.events("reject")} == {
            (AGENT_C.uri, "0000000000000007")
        }


async def test_a_third_one_is_refused_while_a_half_waits() -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        near = await offer(consumer, CONSUMERS)
        await everybody_waits()
        thief = await relay.agent(AGENT_C, *FEATURES)
        stream = await offer(thief, claim(AGENT_A, role=orp.Role.PROVIDER))
        assert (await rejection(stream))[0] == 409

        far = await offer(await relay.agent(AGENT_B, *FEATURES), PROVIDERS)
        await echo(near)
        await echo(far)


async def test_the_id_of_a_stream_that_is_being_opened_is_taken() -> None:
    async with relay_rooms() as relay:
        provider = await relay.provider()
        consumer = await relay.agent(AGENT_A, *FEATURES)
        near = await consumer.open("echo", stream_id=7)
        far, _ = await provider.incoming()
        assert (await rejection(await offer(consumer, CONSUMERS)))[0] == 409
        await accept(far)
        await near.write(b"up")
        assert await far.read() == b"up"


@pytest.mark.virtual_time
async def test_tenants_never_meet() -> None:
    async with relay_rooms(rules=[ALLOW_ALL, rule("*", tenant="globex")]) as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        near = await offer(consumer, CONSUMERS)
        stranger = await relay.agent(STRANGER, *FEATURES)
        far = await offer(stranger, PROVIDERS)
        await everybody_waits()
        assert relay.metric("outrelay_in_use", what="halves") == 2
        await assert_ended(near, ErrorCode.EXPIRED)
        await assert_ended(far, ErrorCode.EXPIRED)


async def test_a_claim_that_is_none_is_refused() -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        stream = await consumer.connection.open_stream()
        await stream.write(struct.pack("!HHI", 1 << 13 | FrameType.STREAM_RESUME, 0, 1) + b"\x0a")
        assert (await rejection(stream))[0] == 400


@pytest.mark.parametrize(
    "half",
    [
        orp.StreamResume(my_position=5),
        claim(service="/read"),
        claim(service="a b/read"),
        claim(service="echo/REGISTER"),
        claim(service="echo/\n"),
        claim(role=orp.Role.ValueType(9)),
        orp.StreamResume(
            stream_id=7, target_service="echo", role=orp.Role.CONSUMER, peer_agent_uri="x" * 513
        ),
    ],
)
async def test_a_claim_that_says_nonsense_is_refused(half: orp.StreamResume) -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        assert (await rejection(await offer(consumer, half)))[0] == 400


# ---- policy ------------------------------------------------------------------------------------

DENIED: list[list[Rule]] = [
    [],
    [rule("echo", decision=Decision.DENY)],
    [ALLOW_ALL, rule("echo", rule_id="2", method="REGISTER", decision=Decision.DENY)],
    [rule("echo", p2p_mode=P2PMode.REQUIRED)],
]


@pytest.mark.parametrize("rules", DENIED)
@pytest.mark.parametrize("consumer_first", [True, False])
async def test_a_stream_that_policy_denies_now_does_not_go_on(
    rules: list[Rule], consumer_first: bool
) -> None:
    async with relay_rooms() as relay:
        both = await call(relay)
        severed(both.consumer)
        await assert_ended(both.far, ErrorCode.LEG_LOST)
        relay.judge.replace(PolicySet(rules))
        again = await relay.agent(AGENT_A, *FEATURES)
        if consumer_first:
            near = await offer(again, CONSUMERS)
            await everybody_waits()
            far = await offer(both.provider, PROVIDERS)
        else:
            far = await offer(both.provider, PROVIDERS)
            await everybody_waits()
            near = await offer(again, CONSUMERS)
        assert (await rejection(near))[0] == 403
        assert (await rejection(far))[0] == 403
        assert relay.events("resume") == []
        assert len(relay.events("reject")) == 2
        assert len(relay.pairs) == 0


@pytest.mark.parametrize(
    ("said", "allowed"), [("echo/read", True), ("echo/GET /a", False), ("echo", False)]
)
async def test_policy_is_asked_for_the_method_of_the_stream(said: str, *, allowed: bool) -> None:
    async with relay_rooms(rules=[rule("echo", method="read")]) as relay:
        ours, theirs = claim(service=said), claim(AGENT_A, role=PROVIDER, service=said)
        near = await offer(await relay.agent(AGENT_A, *FEATURES), ours)
        far = await offer(await relay.agent(AGENT_B, *FEATURES), theirs)
        if not allowed:
            assert (await rejection(near))[0] == (await rejection(far))[0] == 403
            return
        assert (await echo(near))[0] == theirs
        assert (await echo(far))[0] == ours
        (resumed,) = relay.events("resume")
        assert (resumed.target, resumed.method) == ("echo", "read")
        relay.judge.replace(PolicySet([rule("echo", method="write")]))
        (pair,) = relay.pairs
        assert not relay.judge.judge_live(pair.call, AGENT_B.uri).allow


async def test_halves_that_come_before_the_policy_wait_for_it() -> None:
    async with relay_rooms(rules=None) as relay:
        near = await offer(await relay.agent(AGENT_A, *FEATURES), CONSUMERS)
        far = await offer(await relay.agent(AGENT_B, *FEATURES), PROVIDERS)
        await everybody_waits()
        assert relay.events("reject") == []
        relay.judge.replace(PolicySet([ALLOW_ALL]))
        assert (await echo(near))[0] == PROVIDERS
        assert (await echo(far))[0] == CONSUMERS


async def test_halves_by_different_methods_are_kept_apart() -> None:
    async with relay_rooms() as relay:
        await offer(await relay.agent(AGENT_A, *FEATURES), claim(service="echo/read"))
        await everybody_waits()
        theirs = claim(AGENT_A, role=PROVIDER, service="echo/write")
        far = await offer(await relay.agent(AGENT_B, *FEATURES), theirs)
        assert (await rejection(far))[0] == 409


async def test_a_stream_for_which_there_is_no_such_plane_does_not_go_on() -> None:
    async with relay_rooms(rules=[rule("echo", relay_mode=RelayMode.FORWARD)]) as relay:
        near = await offer(await relay.agent(AGENT_A, *FEATURES), CONSUMERS)
        far = await offer(await relay.agent(AGENT_B, *FEATURES), PROVIDERS)
        assert (await rejection(near))[0] == (await rejection(far))[0] == 502


async def test_a_resumed_stream_is_revoked_like_any_other() -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        stream = await resume(consumer, await relay.agent(AGENT_B, *FEATURES))
        (pair,) = relay.pairs
        assert pair.splice is not None
        pair.splice.abandon(ErrorCode.DENIED, "no longer")
        await assert_ended(stream.near, ErrorCode.DENIED)
        await assert_ended(stream.far, ErrorCode.DENIED)


# ---- limits ------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_half_waits_for_the_window_and_no_longer() -> None:
    async with relay_rooms(limits=Limits(resume_window=12.0)) as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        near = await offer(consumer, CONSUMERS)
        await assert_ended(near, ErrorCode.EXPIRED)
        assert elapsed() == 12.0
        (event,) = relay.events("reject")
        assert "12 s" in event.reason
        assert relay.metric("outrelay_in_use", what="halves") == 0
        assert relay.metric("outrelay_streams_ended_total", result="expired") == 1


@pytest.mark.parametrize(
    ("features", "why"),
    [
        (None, "its agent is not connected here"),
        ((), "its agent has no resume/2"),
        (FEATURES, "its agent is connected, and was restarted or has ended the stream"),
    ],
    ids=["away", "plain", "restarted"],
)
@pytest.mark.virtual_time
async def test_it_is_told_why_the_other_half_did_not_come(
    features: tuple[str, ...] | None, why: str
) -> None:
    async with relay_rooms() as relay:
        if features is not None:
            await relay.agent(AGENT_B, *features)
        near = await offer(await relay.agent(AGENT_A, *FEATURES), CONSUMERS)
        await assert_ended(near, ErrorCode.EXPIRED)
        (event,) = relay.events("reject")
        assert event.reason == f"the other half did not come within 30 s: {why}"


@pytest.mark.parametrize(
    ("ours", "theirs", "why"),
    [
        (FEATURES, FEATURES, ""),
        ((), FEATURES, ", not resumable: no resume/2 at the consumer"),
        (FEATURES, ("goaway/1",), ", not resumable: no resume/2 at the provider"),
    ],
)
async def test_it_is_told_why_a_stream_is_lost_for_good(
    ours: tuple[str, ...], theirs: tuple[str, ...], why: str
) -> None:
    async with relay_rooms() as relay:
        provider = await relay.agent(AGENT_B, *theirs)
        await provider.register("echo")
        both = await call(relay, consumer=await relay.agent(AGENT_A, *ours), provider=provider)
        severed(both.consumer)
        await until(lambda: len(relay.pairs) == 0)
        (closed,) = relay.events("close")
        assert closed.reason == f"the consumer's connection is gone (LEG_LOST){why}"


async def test_an_agent_that_used_its_own_service_resumes_nothing() -> None:
    async with relay_rooms() as relay:
        provider = await relay.provider()
        await call(relay, consumer=await relay.agent(AGENT_B, *FEATURES), provider=provider)
        severed(provider)
        await until(lambda: len(relay.pairs) == 0)
        (closed,) = relay.events("close")
        assert closed.reason.endswith("not resumable: an agent resumes no streams with itself")


async def test_more_halves_than_an_agent_may_have_are_refused() -> None:
    async with relay_rooms(limits=Limits(halves=Bounds(agent=1, tenant=2))) as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        await offer(consumer, CONSUMERS)
        await everybody_waits()
        code, reason = await rejection(await offer(consumer, claim(stream_id=8)))
        assert (code, reason) == (
            429,
            "the agent has 1 streams that wait to be resumed, the most allowed",
        )
        await offer(await relay.agent(AGENT_B, *FEATURES), claim(AGENT_A, stream_id=9))
        await everybody_waits()
        third = await relay.agent(AGENT_C, *FEATURES)
        assert (await rejection(await offer(third, claim(stream_id=10))))[0] == 429
        assert relay.metric("outrelay_in_use", what="halves") == 2


async def test_a_stream_more_than_the_consumer_may_have_does_not_go_on() -> None:
    async with relay_rooms(limits=Limits(streams=Bounds(agent=1, tenant=9))) as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        provider = await relay.agent(AGENT_B, *FEATURES)
        await resume(consumer, provider)
        near = await offer(consumer, claim(stream_id=8))
        far = await offer(provider, claim(AGENT_A, role=orp.Role.PROVIDER, stream_id=8))
        assert (await rejection(near))[0] == (await rejection(far))[0] == 429


async def test_no_stream_goes_on_that_cannot_be_recorded() -> None:
    async with relay_rooms(audit_memory=0) as relay:
        near = await offer(await relay.agent(AGENT_A, *FEATURES), CONSUMERS)
        far = await offer(await relay.agent(AGENT_B, *FEATURES), PROVIDERS)
        assert (await rejection(near))[0] == (await rejection(far))[0] == 429


async def test_a_half_that_does_not_wait_is_dropped() -> None:
    async with relay_rooms(limits=Limits(frame_bytes=1000)) as relay:
        near = await offer(await relay.agent(AGENT_A, *FEATURES), CONSUMERS)
        await near.write(bytes(1001))
        await assert_ended(near, ErrorCode.PROTOCOL)
        assert relay.metric("outrelay_in_use", what="halves") == 0


async def test_what_all_halves_say_too_early_is_bounded() -> None:
    async with relay_rooms(limits=Limits(early_bytes=1000)) as relay:
        hostile = await relay.agent(AGENT_C, *FEATURES)
        first = await offer(hostile, claim(stream_id=8), behind=bytes(500))
        await everybody_waits()
        await assert_ended(
            await offer(hostile, claim(stream_id=9), behind=bytes(600)), ErrorCode.PROTOCOL
        )
        await first.write(bytes(400))
        await everybody_waits()
        near = await offer(await relay.agent(AGENT_A, *FEATURES), CONSUMERS)
        await everybody_waits()
        assert relay.metric("outrelay_in_use", what="halves") == 2
        far = await offer(await relay.agent(AGENT_B, *FEATURES), PROVIDERS)
        await echo(near)
        await echo(far)
        first.reset(ErrorCode.CANCELLED)
        first.stop(ErrorCode.CANCELLED)
        await until(lambda: relay.metric("outrelay_in_use", what="halves") == 0)
        await offer(hostile, claim(stream_id=9), behind=bytes(1000))  # there is room again
        await until(lambda: relay.metric("outrelay_in_use", what="halves") == 1)


async def test_a_half_that_is_given_up_waits_no_longer() -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        near = await offer(consumer, CONSUMERS)
        await until(lambda: relay.metric("outrelay_in_use", what="halves") == 1)
        near.reset(ErrorCode.CANCELLED)
        near.stop(ErrorCode.CANCELLED)
        await until(lambda: relay.metric("outrelay_in_use", what="halves") == 0)


async def test_a_half_whose_connection_is_lost_waits_no_longer() -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        await offer(consumer, CONSUMERS)
        await until(lambda: relay.metric("outrelay_in_use", what="halves") == 1)
        severed(consumer)
        await until(lambda: relay.metric("outrelay_in_use", what="halves") == 0)


# ---- a relay that leaves -----------------------------------------------------------------------


async def test_halves_are_sent_on_by_a_relay_that_leaves() -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A, *FEATURES)
        provider = await relay.agent(AGENT_B, *FEATURES)
        near = await offer(consumer, CONSUMERS)
        await everybody_waits()
        relay.edge.drain(1.0)
        await assert_ended(near, ErrorCode.DRAIN)
        await assert_ended(await offer(provider, PROVIDERS), ErrorCode.DRAIN)


# ---- who does not come by itself ---------------------------------------------------------------


@pytest.mark.virtual_time
async def test_the_other_agent_is_called_when_it_does_not_come() -> None:
    async with relay_rooms() as relay:
        consumer, provider, other = [
            await relay.agent(each, *FEATURES) for each in (AGENT_A, AGENT_B, AGENT_C)
        ]
        near = await offer(consumer, CONSUMERS)
        called = await provider.expect(FrameType.STREAM_ENDED, orp.StreamEnded)
        assert called == orp.StreamEnded(stream_id=7, code=ErrorCode.LEG_LOST)
        assert elapsed() == pytest.approx(CALL_AFTER, abs=0.1)
        await other.ping()  # answered by nothing but PONG
        await provider.expect(FrameType.STREAM_ENDED, orp.StreamEnded)  # it may have been away
        assert elapsed() == pytest.approx(3 * CALL_AFTER, abs=0.1)
        await offer(provider, PROVIDERS)
        await echo(near)


@pytest.mark.virtual_time
async def test_nobody_is_called_by_another_tenant_or_without_the_feature() -> None:
    async with relay_rooms() as relay:
        stranger = await relay.agent(STRANGER, *FEATURES)
        plain, consumer = await relay.agent(AGENT_B), await relay.agent(AGENT_A, *FEATURES)
        for half in (claim(STRANGER), claim(AGENT_B, stream_id=8)):
            await offer(consumer, half)
        await asyncio.sleep(2 * CALL_AFTER)  # of virtual time
        for each in (stranger, plain):
            await each.ping()


@pytest.mark.virtual_time
async def test_nobody_is_called_for_a_half_that_has_met_its_other() -> None:
    async with relay_rooms() as relay:
        consumer, provider = [await relay.agent(each, *FEATURES) for each in (AGENT_A, AGENT_B)]
        await resume(consumer, provider)
        await asyncio.sleep(2 * CALL_AFTER)  # of virtual time
        await provider.ping()

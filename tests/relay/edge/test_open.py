"""Opening streams: who is let through to whom, what both hear of it, what is recorded."""

from __future__ import annotations

import asyncio

import pytest

from outrelay.lib.control.v1 import policy_pb2 as policy
from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.errors import Closed, ErrorCode, Reset
from outrelay.lib.orp.frame import FrameType, encode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.policy import P2PMode, PolicySet, RelayMode
from outrelay.lib.transport.carrier import Stream
from outrelay.relay.limits import Bounds, Limits
from tests.relay.edge.resuming import assert_ended
from tests.relay.rooms import ALLOW_ALL, call, relay_rooms, rule, severed
from tests.support.peers import (
    AGENT_A,
    AGENT_B,
    AGENT_C,
    FEATURES,
    STRANGER,
    AgentPeer,
    accept,
    read_all,
    rejection,
)
from tests.support.turns import everybody_waits, until
from tests.support.virtual_loop import elapsed


async def raw(peer: AgentPeer, data: bytes) -> Stream:
    """A data stream that begins with ``data``."""
    stream = await peer.connection.open_stream()
    await stream.write(data)
    return stream


# ---- allowed -----------------------------------------------------------------------------------


async def test_a_stream_is_spliced_and_recorded() -> None:
    async with relay_rooms() as relay:
        provider = await relay.provider()
        consumer = await relay.agent(AGENT_A, "deregister/1", "resume/2")
        near = await consumer.open("echo", stream_id=0xFFFF_FFFF_FFFF_FFFE, method="GET /")
        far, incoming = await provider.incoming()
        assert incoming == orp.IncomingStream(
            target_service="echo",
            method="GET /",
            source_agent_uri=AGENT_A.uri,
            stream_id=0xFFFF_FFFF_FFFF_FFFE,
        )
        await accept(far, early=b"hello from the backend;")
        assert await consumer.ready() == orp.StreamReady(
            stream_id=0xFFFF_FFFF_FFFF_FFFE, peer_agent_uri=AGENT_B.uri, peer_features=FEATURES
        )
        assert await provider.ready() == orp.StreamReady(
            stream_id=0xFFFF_FFFF_FFFF_FFFE,
            peer_agent_uri=AGENT_A.uri,
            peer_features=["deregister/1", "resume/2"],
        )
        assert relay.metric("outrelay_streams_open") == 1

        await near.write(b"request")
        near.finish()
        assert await read_all(far) == b"request"
        await far.write(b"response")
        far.finish()
        assert await read_all(near) == b"hello from the backend;response"
        await until(lambda: len(relay.pairs) == 0)

        opened, closed = relay.events("open", "close")
        assert (opened.event, opened.caller, opened.target, opened.method, opened.provider) == (
            "open",
            AGENT_A.uri,
            "echo",
            "GET /",
            AGENT_B.uri,
        )
        assert (opened.tenant, opened.relay_id, opened.stream_id, opened.decision) == (
            "acme",
            "r1",
            "fffffffffffffffe",
            policy.DECISION_ALLOW,
        )
        assert (closed.event, closed.stream_id, closed.reason) == (
            "close",
            opened.stream_id,
            "finished",
        )
        assert (closed.bytes_up, closed.bytes_down) == (7, 31)
        assert opened.event_id != closed.event_id
        assert relay.metric("outrelay_streams_open") == 0
        assert relay.metric("outrelay_streams_opened_total") == 1
        assert relay.metric("outrelay_streams_ended_total", result="closed") == 1
        assert relay.metric("outrelay_stream_bytes_total", direction="up", path="relayed") == 7
        assert relay.metric("outrelay_stream_bytes_total", direction="down", path="relayed") == 31


async def test_bytes_right_behind_the_open_are_passed_on() -> None:
    async with relay_rooms() as relay:
        provider = await relay.provider()
        consumer = await relay.agent(AGENT_A)
        message = orp.OpenStream(target_service="echo", stream_id=7)
        near = await raw(consumer, encode(FrameType.OPEN_STREAM, message) + b"too early")
        near.finish()
        far, _incoming = await provider.incoming()
        await accept(far)

        assert await read_all(far) == b"too early"


async def test_plain_agents_are_told_the_id_and_no_more() -> None:
    async with relay_rooms() as relay:
        provider = await relay.provider(AGENT_B, "echo", "unheard-of/9")
        consumer = await relay.agent(AGENT_A)
        await consumer.open("echo", stream_id=7)
        far, _incoming = await provider.incoming()
        await accept(far)

        assert await consumer.ready() == orp.StreamReady(stream_id=7)
        assert await provider.ready() == orp.StreamReady(stream_id=7)


async def test_a_plain_agents_stream_without_an_id_gets_one_for_the_provider() -> None:
    async with relay_rooms() as relay:
        provider = await relay.provider()
        consumer = await relay.agent(AGENT_A)
        ids = set()
        for _ in range(2):
            await consumer.open("echo", stream_id=0)
            far, incoming = await provider.incoming()
            ids.add(incoming.stream_id)
            await accept(far)
            assert (await consumer.ready()).stream_id == 0
            assert (await provider.ready()).stream_id == incoming.stream_id

        assert len(ids) == 2
        assert 0 not in ids


async def test_capabilities_are_passed_on_within_bounds() -> None:
    async with relay_rooms() as relay:
        provider = await relay.provider(
            AGENT_B, "echo", "resume/2", "x" * 65, "\n", *(f"f{n}/1" for n in range(100))
        )
        line = await call(relay, provider=provider, stream_id=1)
        await line.consumer.open("echo", stream_id=7)
        far, _incoming = await provider.incoming()
        await accept(far)
        features = list((await line.consumer.ready()).peer_features)

        assert features[:2] == ["resume/2", "f0/1"]
        assert len(features) <= 32
        assert "x" * 65 not in features


async def test_the_verdicts_p2p_mode_is_passed_on() -> None:
    async with relay_rooms(rules=[rule("*", p2p_mode=P2PMode.FORBIDDEN)]) as relay:
        provider = await relay.provider()
        consumer = await relay.agent(AGENT_A, *FEATURES)
        await consumer.open("echo", stream_id=7)
        far, _incoming = await provider.incoming()
        await accept(far)

        assert (await consumer.ready()).p2p_mode == orp.FORBIDDEN
        assert (await provider.ready()).p2p_mode == orp.FORBIDDEN


async def test_an_agent_may_call_itself() -> None:
    async with relay_rooms() as relay:
        agent = await relay.provider(AGENT_B)
        await agent.open("echo", stream_id=7)
        far, incoming = await agent.incoming()
        await accept(far)

        assert incoming.source_agent_uri == AGENT_B.uri
        assert (await agent.ready()).stream_id == (await agent.ready()).stream_id == 7


async def test_providers_take_turns() -> None:
    async with relay_rooms() as relay:
        providers = [await relay.provider(AGENT_B), await relay.provider(AGENT_C)]
        consumer = await relay.agent(AGENT_A)
        for stream_id in range(1, 5):
            await consumer.open("echo", stream_id=stream_id)
            _far, incoming = await providers[(stream_id - 1) % 2].incoming()
            assert incoming.stream_id == stream_id


async def test_without_policy_for_development() -> None:
    async with relay_rooms(rules=None, allow_all=True) as relay:
        await call(relay)


# ---- denied ------------------------------------------------------------------------------------


async def test_nothing_is_allowed_before_there_is_a_policy() -> None:
    async with relay_rooms(rules=None, limits=Limits(policy_patience=0.0)) as relay:
        await relay.provider()
        consumer = await relay.agent(AGENT_A)
        code, reason = await rejection(await consumer.open("echo", stream_id=7))

        assert code == 403
        assert "has no policy yet" in reason


async def test_who_comes_before_the_policy_waits_for_it() -> None:
    async with relay_rooms(rules=None) as relay:
        provider = await relay.provider()
        consumer = await relay.agent(AGENT_A, *FEATURES)
        allowed = await consumer.open("echo", stream_id=7)
        denied = await consumer.open("vault", stream_id=8)
        await everybody_waits()
        relay.judge.replace_tenant("globex", [])  # which says nothing of this one
        await everybody_waits()
        assert relay.events("reject", "open") == []
        relay.judge.replace(PolicySet([rule("echo")]))
        far, _ = await provider.incoming()
        await accept(far)
        await allowed.write(b"up")
        assert await far.read() == b"up"
        assert await rejection(denied) == (403, "no policy rule allows it")


async def test_what_no_rule_allows_is_denied_and_recorded() -> None:
    async with relay_rooms(rules=[rule("other")]) as relay:
        await relay.provider()
        consumer = await relay.agent(AGENT_A)
        stream = await consumer.open("echo", stream_id=0xAB)

        code, reason = await rejection(stream)
        assert (code, reason) == (403, "no policy rule allows it")
        with pytest.raises(Reset):  # and nobody reads what the consumer might still send
            await stream.wait_finished()
        [event] = relay.events("reject")
        assert (event.event, event.decision, event.stream_id, event.target) == (
            "reject",
            policy.DECISION_DENY,
            "00000000000000ab",
            "echo",
        )
        assert event.reason == "403 no policy rule allows it"
        assert relay.metric("outrelay_streams_ended_total", result="403") == 1
        assert relay.metric("outrelay_policy_decisions_total", decision="deny") == 1


async def test_the_callee_side_chooses_among_providers() -> None:
    rules = [
        ALLOW_ALL,
        rule(AGENT_C.uri, rule_id="2", caller=AGENT_B.uri),  # B serves only C
    ]
    async with relay_rooms(rules=rules) as relay:
        await relay.provider(AGENT_B)
        open_to_all = await relay.provider(AGENT_C)
        consumer = await relay.agent(AGENT_A)
        for stream_id in (1, 2):
            await consumer.open("echo", stream_id=stream_id)
            _far, incoming = await open_to_all.incoming()
            assert incoming.stream_id == stream_id


async def test_the_callee_side_denies() -> None:
    rules = [ALLOW_ALL, rule(AGENT_C.uri, rule_id="2", caller=AGENT_B.uri)]
    async with relay_rooms(rules=rules) as relay:
        await relay.provider(AGENT_B)
        consumer = await relay.agent(AGENT_A)
        code, reason = await rejection(await consumer.open("echo", stream_id=7))

        assert code == 403
        assert "provider" in reason


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ({"relay_mode": RelayMode.FORWARD}, 502),
        ({"p2p_mode": P2PMode.REQUIRED}, 403),
        ({"relay_mode": RelayMode.FORWARD, "p2p_mode": P2PMode.REQUIRED}, 403),
    ],
)
async def test_a_promise_about_the_path_is_never_broken_by_a_splice(
    mode: dict[str, RelayMode | P2PMode], code: int
) -> None:
    promise = rule("*", **mode)  # type: ignore[arg-type]
    async with relay_rooms(rules=[promise]) as relay:
        await relay.provider()
        consumer = await relay.agent(AGENT_A, *FEATURES)

        assert (await rejection(await consumer.open("echo", stream_id=7)))[0] == code


async def test_a_service_nobody_offers() -> None:
    async with relay_rooms() as relay:
        consumer = await relay.agent(AGENT_A)

        code, reason = await rejection(await consumer.open("echo", stream_id=7))
        assert code == 404
        assert "echo" in reason


@pytest.mark.virtual_time
async def test_a_service_offered_behind_another_relay() -> None:
    async with relay_rooms() as relay:
        row = registry.Provider(
            service_id="acme/echo", agent_uri=AGENT_B.uri, relay_id="r2", relay_endpoint="x:1"
        )
        relay.directory.add(row)
        consumer = await relay.agent(AGENT_A)

        code, reason = await rejection(await consumer.open("echo", stream_id=7))
        assert code == 502
        assert "r2" in reason
        assert elapsed() == 3.0  # its providers may be on their way


@pytest.mark.virtual_time
async def test_a_provider_that_was_lost_is_waited_for() -> None:
    async with relay_rooms(limits=Limits(resume_window=20.0)) as relay:
        provider = await relay.provider()
        consumer = await relay.agent(AGENT_A, *FEATURES)
        severed(provider)
        await until(lambda: relay.directory.expects("acme", "echo"))
        near = await consumer.open("echo", stream_id=7)
        await asyncio.sleep(2.5)
        again = await relay.provider()
        far, _ = await again.incoming()
        await accept(far)
        await near.write(b"up")
        assert await far.read() == b"up"

        severed(again)
        await until(lambda: relay.directory.expects("acme", "echo"))
        assert (await rejection(await consumer.open("echo", stream_id=8)))[0] == 404
        assert elapsed() == 5.5
        await asyncio.sleep(18)
        assert (await rejection(await consumer.open("echo", stream_id=9)))[0] == 404
        assert elapsed() == 23.5


async def test_a_provider_that_is_lost_while_it_is_asked_is_waited_for() -> None:
    async with relay_rooms() as relay:
        provider = await relay.provider()
        consumer = await relay.agent(AGENT_A, *FEATURES)
        near = await consumer.open("echo", stream_id=7)
        await provider.incoming()
        severed(provider)
        await everybody_waits()
        again = await relay.provider()
        far, _ = await again.incoming()
        await accept(far)
        await near.write(b"up")
        assert await far.read() == b"up"


async def test_one_that_comes_back_and_may_not_serve_is_not_asked() -> None:
    async with relay_rooms(rules=[rule("echo")]) as relay:
        severed(await relay.provider())
        await until(lambda: relay.directory.expects("acme", "echo"))
        consumer = await relay.agent(AGENT_A, *FEATURES)
        streams = [await consumer.open("echo", stream_id=each) for each in (7, 8)]
        await everybody_waits()
        refuses = rule(AGENT_C.uri, rule_id="2", caller=AGENT_B.uri)
        relay.judge.replace(PolicySet([rule("echo"), refuses]))
        await relay.provider()
        for stream in streams:
            assert (await rejection(stream))[0] == 403


@pytest.mark.virtual_time
async def test_an_id_is_in_use_while_a_provider_is_waited_for() -> None:
    async with relay_rooms() as relay:
        severed(await relay.provider())
        await until(lambda: relay.directory.expects("acme", "echo"))
        consumer = await relay.agent(AGENT_A, *FEATURES)
        first = await consumer.open("echo", stream_id=7)
        await everybody_waits()
        assert (await rejection(await consumer.open("echo", stream_id=7)))[0] == 409
        assert (await rejection(first))[0] == 404  # nobody came
        await consumer.open("echo", stream_id=7)
        await everybody_waits()
        provider = await relay.provider()
        _far, incoming = await provider.incoming()
        assert incoming.stream_id == 7


async def test_a_service_that_was_withdrawn_is_not_waited_for() -> None:
    async with relay_rooms() as relay:
        provider = await relay.provider()
        await provider.deregister("echo")
        consumer = await relay.agent(AGENT_A, *FEATURES)
        assert (await rejection(await consumer.open("echo", stream_id=7)))[0] == 404


async def test_a_service_whose_last_provider_here_has_just_left() -> None:
    async with relay_rooms() as relay:
        row = registry.Provider(service_id="acme/echo", agent_uri=AGENT_B.uri, relay_id="r1")
        relay.directory.add(row)  # the registry does not know it yet
        consumer = await relay.agent(AGENT_A)

        assert (await rejection(await consumer.open("echo", stream_id=7)))[0] == 404


async def test_another_tenants_service_does_not_exist() -> None:
    async with relay_rooms(rules=[ALLOW_ALL, rule("*", tenant="globex")]) as relay:
        await relay.provider(STRANGER)
        consumer = await relay.agent(AGENT_A)
        unknown = await rejection(await consumer.open("nobody", stream_id=7))
        code, reason = await rejection(await consumer.open("echo", stream_id=8))

        assert (code, reason) == (unknown[0], unknown[1].replace("nobody", "echo"))


# ---- ids and limits ----------------------------------------------------------------------------


async def test_an_id_in_use_is_refused_within_its_tenant_only() -> None:
    async with relay_rooms(rules=[ALLOW_ALL, rule("*", tenant="globex")]) as relay:
        line = await call(relay, stream_id=7)
        other = await relay.agent(AGENT_C)
        assert (await rejection(await other.open("echo", stream_id=7)))[0] == 409
        assert (await rejection(await line.consumer.open("echo", stream_id=7)))[0] == 409

        foreigner = await relay.provider(STRANGER)
        await foreigner.open("echo", stream_id=7)
        _far, incoming = await foreigner.incoming()
        assert incoming.stream_id == 7


async def test_an_id_is_free_again_after_its_stream() -> None:
    async with relay_rooms() as relay:
        line = await call(relay, stream_id=7)
        line.near.finish()
        line.far.finish()
        await until(lambda: len(relay.pairs) == 0)

        await call(relay, stream_id=7, consumer=line.consumer, provider=line.provider)


async def test_an_id_is_in_use_while_the_provider_thinks() -> None:
    async with relay_rooms() as relay:
        provider = await relay.provider()
        consumer = await relay.agent(AGENT_A)
        await consumer.open("echo", stream_id=7)
        far, _incoming = await provider.incoming()

        assert (await rejection(await consumer.open("echo", stream_id=7)))[0] == 409
        await accept(far)
        assert (await consumer.ready()).stream_id == 7


async def test_streams_of_an_agent_are_bounded_over_its_connections() -> None:
    async with relay_rooms(limits=Limits(streams=Bounds(agent=2, tenant=9))) as relay:
        line = await call(relay, stream_id=1)
        again = await relay.agent(AGENT_A, *FEATURES)
        await call(relay, stream_id=2, consumer=again, provider=line.provider)
        code, reason = await rejection(await again.open("echo", stream_id=3))
        assert code == 429
        assert "2 streams" in reason

        line.near.finish()
        line.far.finish()
        await until(lambda: len(relay.pairs) == 1)
        await call(relay, stream_id=3, consumer=again, provider=line.provider)


async def test_what_cannot_be_recorded_is_not_opened_and_what_runs_goes_on() -> None:
    async with relay_rooms(audit_memory=1000) as relay:
        line = await call(relay, stream_id=1)
        relay.events()  # releases the registration, which is held back to be counted
        assert not relay.trail.has_room("acme")

        code, reason = await rejection(await line.consumer.open("echo", stream_id=2))
        assert code == 429
        assert "audit" in reason
        await line.near.write(b"goes on")
        assert await line.far.read() == b"goes on"
        line.near.finish()
        line.far.finish()
        await until(lambda: len(relay.pairs) == 0)
        assert len(relay.events("close")) == 1

        relay.trail.remove(relay.trail.batch())
        await call(relay, stream_id=3, consumer=line.consumer, provider=line.provider)


# ---- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["consumer", "provider"])
async def test_a_lost_leg_is_recorded(lost: str) -> None:
    async with relay_rooms() as relay:
        line = await call(relay)
        await line.near.write(b"abc")
        assert await line.far.read() == b"abc"
        gone, stays = (
            (line.consumer, line.far) if lost == "consumer" else (line.provider, line.near)
        )
        severed(gone)

        await assert_ended(stays, ErrorCode.LEG_LOST)
        await until(lambda: len(relay.pairs) == 0)
        [event] = relay.events("close")
        assert (event.bytes_up, event.bytes_down) == (3, 0)
        assert event.reason == f"the {lost}'s connection is gone (LEG_LOST)"
        assert relay.metric("outrelay_streams_ended_total", result="leg_lost") == 1


async def test_a_connection_that_closes_takes_its_streams_and_no_others() -> None:
    async with relay_rooms() as relay:
        line = await call(relay, stream_id=1)
        other = await relay.agent(AGENT_C, *FEATURES)
        stays = await call(relay, stream_id=2, consumer=other, provider=line.provider)
        line.consumer.connection.close()
        with pytest.raises(Closed):
            await line.near.read()

        await assert_ended(line.far, ErrorCode.LEG_LOST)
        await stays.near.write(b"goes on")
        assert await stays.far.read() == b"goes on"


async def test_a_hundred_streams_at_once() -> None:
    async with relay_rooms() as relay:
        provider = await relay.provider()
        consumer = await relay.agent(AGENT_A, *FEATURES)
        near = {n: await consumer.open("echo", stream_id=n) for n in range(1, 101)}
        far = {}
        for _ in near:
            stream, incoming = await provider.incoming()
            far[incoming.stream_id] = stream
            await accept(stream)
        assert {(await consumer.ready()).stream_id for _ in near} == near.keys()

        for number, stream in near.items():
            await stream.write(b"%d" % number)
            stream.finish()
        for number, stream in far.items():
            assert await read_all(stream) == b"%d" % number
            stream.finish()
        await until(lambda: len(relay.pairs) == 0)

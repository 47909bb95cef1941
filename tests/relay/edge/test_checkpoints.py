"""Checkpoints: to whom they are passed on, and that nobody waits for anybody."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.empty_pb2 import Empty

from outrelay.lib.errors import ErrorCode
from outrelay.lib.orp.frame import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from tests.relay.edge.resuming import CONSUMERS, offer, resume
from tests.relay.rooms import call, relay_rooms
from tests.support.peers import AGENT_A, AGENT_B, AGENT_C, FEATURES, STRANGER, AgentPeer, accept
from tests.support.turns import until

CHECKPOINT = orp.StreamCheckpoint(stream_id=7, my_position=3, peer_ack_position=5)


async def say(peer: AgentPeer, checkpoint: orp.StreamCheckpoint = CHECKPOINT) -> None:
    """Send a checkpoint, and return once the relay has taken it."""
    await peer.send(FrameType.STREAM_CHECKPOINT, checkpoint)
    await peer.ping()


async def told(peer: AgentPeer) -> orp.StreamCheckpoint:
    """The next control frame, which is a checkpoint."""
    return await peer.expect(FrameType.STREAM_CHECKPOINT, orp.StreamCheckpoint)


async def assert_silence(peer: AgentPeer) -> None:
    """Nothing was sent to ``peer``."""
    await peer.ping()


async def test_each_agent_hears_the_others() -> None:
    async with relay_rooms() as relay:
        both = await call(relay)
        await say(both.consumer)
        assert await told(both.provider) == CHECKPOINT
        final = orp.StreamCheckpoint(stream_id=7, my_position=0, final_position=0)
        await say(both.provider, final)
        assert await told(both.consumer) == final
        await assert_silence(both.provider)


async def test_those_of_a_resumed_stream_take_the_new_way() -> None:
    async with relay_rooms() as relay:
        both = await call(relay)
        again = await relay.agent(AGENT_A, *FEATURES)
        await resume(again, both.provider)
        await say(again)
        assert await told(both.provider) == CHECKPOINT
        await say(both.consumer)  # of the connection that carries it no longer
        await say(both.provider)
        assert await told(again) == CHECKPOINT
        await assert_silence(both.provider)
        await assert_silence(both.consumer)


@pytest.mark.virtual_time
async def test_the_last_ones_may_come_after_the_end() -> None:
    async with relay_rooms() as relay:
        both = await call(relay)
        both.near.finish()
        both.far.finish()
        await until(lambda: len(relay.pairs) == 0)
        await say(both.provider)
        assert await told(both.consumer) == CHECKPOINT
        await offer(both.consumer, CONSUMERS)  # it is nobody's live stream
        await until(lambda: relay.metric("outrelay_in_use", what="halves") == 1)
        for _ in range(2):  # it is called
            await both.provider.expect(FrameType.STREAM_ENDED, orp.StreamEnded)
        await asyncio.sleep(1.0)
        await say(both.provider)
        await assert_silence(both.consumer)


@pytest.mark.parametrize("code", [ErrorCode.CANCELLED, ErrorCode.LEG_LOST])
async def test_none_come_after_another_end(code: ErrorCode) -> None:
    async with relay_rooms() as relay:
        both = await call(relay)
        both.near.reset(code)
        both.near.stop(code)
        both.far.finish()
        await until(lambda: len(relay.pairs) == 0)
        await say(both.provider)
        await assert_silence(both.consumer)


async def test_nothing_else_is_passed_on() -> None:
    async with relay_rooms() as relay:
        both = await call(relay)
        extended = orp.StreamCheckpoint.FromString(
            CHECKPOINT.SerializeToString() + b"\xba\x3e\x01x"
        )
        assert extended != CHECKPOINT
        await say(both.consumer, extended)
        assert (await told(both.provider)).SerializeToString() == CHECKPOINT.SerializeToString()


async def test_nobody_else_is_heard() -> None:
    async with relay_rooms() as relay:
        both = await call(relay)
        for identity in (AGENT_A, AGENT_C, STRANGER):
            await say(await relay.agent(identity, *FEATURES))
        await say(both.consumer, orp.StreamCheckpoint(stream_id=8))
        await assert_silence(both.provider)
        await assert_silence(both.consumer)


async def test_nothing_is_passed_on_of_a_stream_that_is_being_opened() -> None:
    async with relay_rooms() as relay:
        provider = await relay.provider()
        consumer = await relay.agent(AGENT_A, *FEATURES)
        await consumer.open("echo", stream_id=7)
        await provider.incoming()
        await say(consumer)
        await assert_silence(provider)


@pytest.mark.parametrize(
    ("ours", "theirs", "passes"),
    [(FEATURES, (), False), ((), FEATURES, False), ((), (), True), (FEATURES, FEATURES, True)],
)
async def test_agents_that_know_each_others_checkpoints_get_them(
    ours: tuple[str, ...], theirs: tuple[str, ...], passes: bool
) -> None:
    async with relay_rooms() as relay:
        provider = await relay.agent(AGENT_B, *theirs)
        await provider.register("echo")
        both = await call(relay, consumer=await relay.agent(AGENT_A, *ours), provider=provider)
        await say(both.consumer)
        if passes:
            assert await told(provider) == CHECKPOINT
        await assert_silence(provider)


async def test_an_agent_that_uses_its_own_service_hears_nothing_of_itself() -> None:
    async with relay_rooms() as relay:
        agent = await relay.provider(AGENT_B)
        both = await call_itself(agent)
        assert "resume/2" not in both[0].peer_features
        assert "goaway/1" in both[0].peer_features
        await say(agent)
        await assert_silence(agent)


async def call_itself(agent: AgentPeer) -> list[orp.StreamReady]:
    """Have an agent use its own service; what it hears."""
    await agent.open("echo", stream_id=7)
    far, _ = await agent.incoming()
    await accept(far)
    return [await agent.ready(), await agent.ready()]


async def test_only_the_newest_waits_for_an_agent_that_does_not_read() -> None:
    async with relay_rooms() as relay:
        both = await call(relay)
        for position in range(20_000):
            checkpoint = orp.StreamCheckpoint(stream_id=7, my_position=position)
            await both.consumer.send(FrameType.STREAM_CHECKPOINT, checkpoint)
        await both.consumer.send(FrameType.PING, Empty())
        await both.consumer.expect(FrameType.PONG, Empty)
        heard = [await told(both.provider)]
        while heard[-1].my_position < 19_999:
            heard.append(await told(both.provider))
        assert len(heard) < 20_000
        await assert_silence(both.provider)

"""Hostile agents: whatever they say in whatever order, the others are served as before."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from outrelay.lib.errors import ErrorCode, LocalProtocolError, Reset, TransportError
from outrelay.lib.orp.frame import FrameType, encode
from outrelay.lib.orp.types import MESSAGES
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Stream
from outrelay.relay.limits import Limits
from tests.relay.rooms import Rooms, call, relay_rooms, severed
from tests.support.events import events
from tests.support.peers import AGENT_A, AGENT_B, AGENT_C, FEATURES, AgentPeer
from tests.support.turns import everybody_waits, until

EVIL = "evil"

headers = st.builds(
    lambda kind, length: (0x2000 | kind).to_bytes(2, "big") + bytes(2) + length.to_bytes(4, "big"),
    st.sampled_from([*FrameType, 0x005, 0x100, 0x7FF]),
    st.integers(0, 70_000),
)
known = st.sampled_from(FrameType).map(lambda kind: encode(kind, MESSAGES[kind]()))
opens = st.builds(
    lambda service, stream_id: encode(
        FrameType.OPEN_STREAM, orp.OpenStream(target_service=service, stream_id=stream_id)
    ),
    st.sampled_from(["echo", EVIL, "nobody", ""]),
    st.integers(0, 3),
)
registers = st.sampled_from([EVIL, "echo", "a b"]).map(
    lambda name: encode(FrameType.REGISTER, orp.Register(service_name=name))
)
said = st.one_of(st.binary(max_size=64), headers, known, opens, registers)
ends = st.sampled_from(["", "finish", "reset", "stop", "both"])
steps = st.tuples(st.sampled_from(["control", "open", "answer"]), st.lists(said, max_size=3), ends)


class Hostile:
    """An agent that does as the steps say.

    Args:
        peer: Its connection, HELLO said.
    """

    def __init__(self, peer: AgentPeer) -> None:
        self._peer = peer

    async def take(self, where: str, words: list[bytes], end: str) -> None:
        """One step; the connection may end with it."""
        stream = await self._stream(where)
        for word in words:
            with suppress(Reset, LocalProtocolError):  # it may have ended the stream before
                await stream.write(word)
        if end == "finish":
            stream.finish()
        if end in ("reset", "both"):
            stream.reset(ErrorCode.CANCELLED)
        if end in ("stop", "both"):
            stream.stop(ErrorCode.CANCELLED)
        await everybody_waits(20)

    async def _stream(self, where: str) -> Stream:
        if where == "control":
            return self._peer.control
        if where == "answer":
            with suppress(TimeoutError):
                async with asyncio.timeout(0):
                    return await self._peer.connection.accept_stream()
        return await self._peer.connection.open_stream()


async def play(script: list[tuple[str, list[bytes], str]]) -> None:
    """Let an agent loose on a relay, then see that two others can talk."""
    async with relay_rooms(limits=Limits(arrival_patience=0.0)) as relay:
        victim = await relay.agent(AGENT_A, *FEATURES)
        with suppress(TransportError):
            hostile = Hostile(await relay.provider(AGENT_C, EVIL))
            for number, step in enumerate(script):
                await victim.open(EVIL, stream_id=100 + number)
                await hostile.take(*step)
        for session in relay.roster.of(AGENT_C.uri):
            session.connection.close()
        await until(lambda: not relay.roster.of(AGENT_C.uri))
        await assert_served(relay)


async def assert_served(relay: Rooms) -> None:
    """Two agents that have seen nothing of it are served."""
    line = await call(relay, stream_id=7, consumer=await relay.agent(AGENT_B, *FEATURES))
    await line.near.write(b"fine")
    assert await line.far.read() == b"fine"
    for peer in (line.consumer, line.provider):
        severed(peer)
    await until(lambda: all(session.uri == AGENT_A.uri for session in relay.roster))
    await until(lambda: len(relay.pairs) == 0)


@given(st.lists(steps, max_size=6))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_whatever_an_agent_says_the_others_are_served(
    script: list[tuple[str, list[bytes], str]],
) -> None:
    with events() as seen:
        asyncio.run(play(script))

    assert seen.of("task failed") == []

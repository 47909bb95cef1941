"""Networks that block UDP, from the start or in the middle: an agent finds a way in, and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.peers import ping
from tests.netlab.lab import Lab
from tests.netlab.net import network

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(180)]

PROBED = 60.0
"""Seconds in which an agent on tcp has tried quic again: 30, and some to connect."""


async def test_udp_is_blocked_and_then_passes(lab: Lab, tmp_path: Path) -> None:
    """For who consumes, and for who serves."""
    async with network(lab, tmp_path, passes_udp=False) as net:
        await net.serving.event("connected", carrier="tcp")
        agent = await net.consuming()
        await agent.event("connected", carrier="tcp")
        await agent.event("ready")
        await net.is_served()

        async with net.calling() as old:
            await ping(*old)
            marks = {each: each.mark() for each in (agent, net.serving)}
            net.wan.pass_all()
            for each, since in marks.items():
                await each.event("connected", carrier="quic", since=since, timeout=PROBED)
            await ping(*old)  # what runs finishes where it is
            await net.is_served()


async def test_udp_dies_in_the_middle(lab: Lab, tmp_path: Path) -> None:
    """The agent moves to tcp, and takes what runs with it."""
    async with network(lab, tmp_path) as net:
        agent = await net.consuming()
        await agent.event("connected", carrier="quic")
        async with net.calling() as call:
            await ping(*call)
            since = agent.mark()
            net.wan.drop_udp(net.consumer)
            await agent.event("connected", carrier="tcp", since=since, timeout=30)
            await ping(*call)
        await net.is_served()


@pytest.mark.parametrize("mtu", [1280, 1420])
async def test_a_link_that_carries_small_packets_carries_quic(
    lab: Lab, tmp_path: Path, mtu: int
) -> None:
    """Probes of what the path carries fail at the agent's own interface, and end nothing."""
    async with network(lab, tmp_path) as net:
        net.wan.narrow(net.consumer, mtu)
        agent = await net.consuming(["quic"])
        await agent.event("ready")
        async with net.calling() as (reader, writer):
            for _ in range(50):
                writer.write(bytes(10_000))
                await reader.readexactly(10_000)
        assert not agent.seen("disconnected")

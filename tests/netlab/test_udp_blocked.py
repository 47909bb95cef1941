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
    async with network(lab, tmp_path) as net:
        net.wan.drop_udp(net.consumer)
        agent = await net.consuming()
        await agent.event("connected", carrier="tcp")
        await agent.event("ready")
        await net.is_served()

        async with net.calling() as old:
            await ping(*old)
            since = agent.mark()
            net.wan.pass_all()
            await agent.event("connected", carrier="quic", since=since, timeout=PROBED)
            await ping(*old)  # what runs finishes where it is
            await net.is_served()


async def test_udp_dies_in_the_middle(lab: Lab, tmp_path: Path) -> None:
    async with network(lab, tmp_path) as net:
        agent = await net.consuming()
        await agent.event("connected", carrier="quic")
        await net.is_served()

        since = agent.mark()
        net.wan.drop_udp(net.consumer)
        await agent.event("connected", carrier="tcp", since=since, timeout=30)
        await net.is_served()

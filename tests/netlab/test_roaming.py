"""A laptop goes offline, or to another network: its streams go on, and lose no byte."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter, TaskGroup
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.chaos.flows import Traffic
from tests.netlab.lab import Lab
from tests.netlab.net import Net, network
from tests.support.processes import Program

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(300)]

STREAMS = 8
OFFLINE = 20.0
"""Seconds; that long is the point."""

STALLED = 75.0
"""Seconds within which every stream has moved again, on a machine however busy."""


@asynccontextmanager
async def roaming(
    lab: Lab, folder: Path, carrier: str
) -> AsyncIterator[tuple[Net, Program, Traffic]]:
    """A laptop, its agent, and streams; after the body they go on, and end whole."""

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        await traffic.serve(reader, writer)

    async with network(lab, folder, serve) as net:
        traffic = Traffic(net.calling, f"roaming {carrier}", STREAMS)
        agent = await net.consuming([carrier])
        await agent.event("ready")
        async with TaskGroup() as group:
            group.create_task(traffic.run(), name="traffic")
            await moved(traffic)
            yield net, agent, traffic
            await moved(traffic)
            traffic.end()
        assert not traffic.damages
        assert traffic.whole >= STREAMS


async def moved(traffic: Traffic) -> None:
    """Return once something has arrived on every stream."""
    try:
        async with asyncio.timeout(STALLED):
            await traffic.moved()
    except TimeoutError:
        raise AssertionError("\n".join(traffic.give_up())) from None


@pytest.mark.parametrize("carrier", ["quic", "tcp"])
async def test_streams_outlive_a_while_offline(lab: Lab, tmp_path: Path, carrier: str) -> None:
    async with roaming(lab, tmp_path, carrier) as (net, agent, _):
        net.consumer.unplug()
        await asyncio.sleep(OFFLINE)
        net.consumer.plug_in()
        await agent.event("stream resumed", timeout=STALLED)


@pytest.mark.parametrize("carrier", ["quic", "tcp"])
async def test_streams_go_with_their_host_to_another_network(
    lab: Lab, tmp_path: Path, carrier: str
) -> None:
    """Over QUIC mostly with their connection, over TCP without."""
    async with roaming(lab, tmp_path, carrier) as (net, agent, traffic):
        for _ in range(3):
            before = net.consumer.address
            lab.move(net.consumer, net.wan)
            assert net.consumer.address != before
            await moved(traffic)
        if carrier == "tcp":
            await agent.event("stream resumed")

"""What the controller says of the fleet at one moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc.aio

from outrelay.cli.session import TIMEOUT
from outrelay.lib.control.v1 import fleet_pb2, registry_pb2
from outrelay.lib.control.v1.fleet_pb2_grpc import FleetStub
from outrelay.lib.control.v1.registry_pb2_grpc import RegistryStub

MOST = 1000
"""Relays, connections of agents and streams that are asked for, again and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The fleet at one moment.

    Args:
        taken_ms: When, milliseconds since the epoch.
        relays: By id.
        agents: A connection each.
        streams: The newest first.
        silent: Relays that did not answer in time; what they carry is missing.
        truncated: Of what there is more: ``relays``, ``agents``, ``streams``.
    """

    taken_ms: int
    relays: Sequence[registry_pb2.RelayInfo] = ()
    agents: Sequence[registry_pb2.AgentInfo] = ()
    streams: Sequence[fleet_pb2.StreamInfo] = ()
    silent: Sequence[str] = ()
    truncated: Sequence[str] = ()


async def take(channel: grpc.aio.Channel, tenant: str, most: int = MOST) -> Sample:
    """The fleet of a tenant now, or of all when ``tenant`` is empty.

    Args:
        channel: To the controller.
        tenant: Whose fleet.
        most: Of each kind, so many.

    Raises:
        grpc.aio.AioRpcError: A call failed.
    """
    registry, fleet = RegistryStub(channel), FleetStub(channel)
    of_relays = registry_pb2.ListRelaysRequest(tenant=tenant, limit=most)
    of_agents = registry_pb2.ListAgentsRequest(tenant=tenant, limit=most)
    of_streams = fleet_pb2.ListStreamsRequest(tenant=tenant, limit=most)
    relays, agents, streams = await asyncio.gather(
        registry.ListRelays(of_relays, timeout=TIMEOUT),
        registry.ListAgents(of_agents, timeout=TIMEOUT),
        fleet.ListStreams(of_streams, timeout=TIMEOUT),
    )
    silent = {*relays.silent_relays, *agents.silent_relays, *streams.silent_relays}
    truncated = {
        "relays": relays.truncated,
        "agents": agents.truncated,
        "streams": streams.truncated,
    }
    return Sample(
        taken_ms=time.time_ns() // 1_000_000,
        relays=relays.relays,
        agents=agents.agents,
        streams=streams.streams,
        silent=sorted(silent),
        truncated=[name for name, is_cut in truncated.items() if is_cut],
    )

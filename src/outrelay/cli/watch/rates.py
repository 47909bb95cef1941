"""How fast bytes pass: two samples compared. Pure.

A relay's rate is what it has counted where it tells that, else the sum of its streams', as an
agent's and a service's always is. Where a stream has been seen once there is no rate of it,
unless it has been opened since the sample before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from outrelay.cli.watch.sample import Sample
from outrelay.lib.control.v1 import fleet_pb2, registry_pb2


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes a second: up from the consumer, down to it; of an agent: sent and received."""

    up: float = 0.0
    down: float = 0.0

    def __add__(self, other: Rate) -> Rate:
        return Rate(self.up + other.up, self.down + other.down)

    @property
    def turned(self) -> Rate:
        """The same, as the other end calls it."""
        return Rate(self.down, self.up)

    @property
    def total(self) -> float:
        """Both directions."""
        return self.up + self.down


RowT = TypeVar("RowT")
RateOf: TypeAlias = Callable[[RowT], Rate | None]

_StreamKey = tuple[str, str]
"""Tenant and stream id."""

_AgentKey = tuple[str, str]
"""URI and relay: connections of one agent to one relay are told together."""

_ServiceKey = tuple[str, str, str]
"""Tenant, service, and the URI of the agent that offers it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Rates of everything that has one."""

    streams: Mapping[_StreamKey, Rate] = field(default_factory=dict)
    relays: Mapping[str, Rate] = field(default_factory=dict)
    agents: Mapping[_AgentKey, Rate] = field(default_factory=dict)
    services: Mapping[_ServiceKey, Rate] = field(default_factory=dict)

    def of_stream(self, stream: fleet_pb2.StreamInfo) -> Rate | None:
        """A stream's; None: it has not been looked at twice."""
        return self.streams.get((stream.tenant, stream.stream_id))

    def of_relay(self, relay: registry_pb2.RelayInfo) -> Rate:
        """A relay's."""
        return self.relays.get(relay.id, Rate())

    def of_agent(self, agent: registry_pb2.AgentInfo) -> Rate:
        """An agent's at its relay."""
        return self.agents.get((agent.agent_uri, agent.relay_id), Rate())

    def of_service(self, service: registry_pb2.ServiceInfo) -> Rate:
        """A service's at one of the agents that offer it."""
        key = service.tenant, service.service, service.agent_uri
        return self.services.get(key, Rate())


def between(before: Sample | None, now: Sample) -> Rates:
    """The rates from one sample to the next; none at the first one."""
    if before is None or now.taken_ms <= before.taken_ms:
        return Rates()
    seconds = (now.taken_ms - before.taken_ms) / 1000
    streams = dict(_of_streams(before, now, seconds))
    relays: dict[str, Rate] = defaultdict(Rate)
    agents: dict[_AgentKey, Rate] = defaultdict(Rate)
    services: dict[_ServiceKey, Rate] = defaultdict(Rate)
    for stream in now.streams:
        rate = streams.get((stream.tenant, stream.stream_id), Rate())
        relays[stream.relay_id] += rate
        agents[stream.caller, stream.relay_id] += rate
        agents[stream.provider, stream.relay_id] += rate.turned
        services[stream.tenant, stream.service, stream.provider] += rate
    relays |= dict(_of_relays(before, now, seconds))
    return Rates(streams=streams, relays=relays, agents=agents, services=services)


def _of_streams(before: Sample, now: Sample, seconds: float) -> Iterator[tuple[_StreamKey, Rate]]:
    moved = {
        (each.tenant, each.stream_id): (each.bytes_up, each.bytes_down) for each in before.streams
    }
    for stream in now.streams:
        key = stream.tenant, stream.stream_id
        earlier = moved.get(key)
        if earlier is None and stream.opened_unix_ms >= before.taken_ms:
            earlier = 0, 0
        if earlier is not None:
            yield key, _rate(earlier, (stream.bytes_up, stream.bytes_down), seconds)


def _of_relays(before: Sample, now: Sample, seconds: float) -> Iterator[tuple[str, Rate]]:
    counted = {
        each.id: (each.started_unix_ms, each.bytes_up, each.bytes_down) for each in before.relays
    }
    for relay in now.relays:
        started, *earlier = counted.get(relay.id, (0, 0, 0))
        if started == relay.started_unix_ms and (relay.bytes_up or relay.bytes_down):
            up, down = earlier
            yield relay.id, _rate((up, down), (relay.bytes_up, relay.bytes_down), seconds)


def _rate(before: tuple[int, int], now: tuple[int, int], seconds: float) -> Rate:
    """A counter that went back has begun again, and tells nothing."""
    up, down = (max(0, late - early) / seconds for early, late in zip(before, now, strict=True))
    return Rate(up, down)

"""The numbers a running OutRelay keeps about itself, as Prometheus metric families.

Each service makes one registry (``new_registry``) and one of RelayMetrics, AgentMetrics and
ControllerMetrics on it, and hands the parts to the rooms that count. Names, types, labels
and what to do about them are declared in the modules of this package and nowhere else.

Invariant: a label takes its values from a small fixed set, never from what a peer sent.
A process's memory stays flat however many agents, tenants and services there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from outrelay.lib.observe.metrics.connections import CarrierMetrics, UplinkMetrics
from outrelay.lib.observe.metrics.controller import FleetMetrics, RpcMetrics, StoreMetrics
from outrelay.lib.observe.metrics.relay import (
    AuditMetrics,
    LimitMetrics,
    PolicyMetrics,
    ProviderMetrics,
    RegistrationMetrics,
    WatchMetrics,
)
from outrelay.lib.observe.metrics.streams import StreamMetrics

__all__ = [
    "AgentMetrics",
    "AuditMetrics",
    "CarrierMetrics",
    "ControllerMetrics",
    "FleetMetrics",
    "LimitMetrics",
    "PolicyMetrics",
    "ProviderMetrics",
    "RegistrationMetrics",
    "RelayMetrics",
    "RpcMetrics",
    "StoreMetrics",
    "StreamMetrics",
    "UplinkMetrics",
    "WatchMetrics",
    "new_registry",
]


def new_registry() -> CollectorRegistry:
    """A registry that holds the process's memory, time and files."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


@dataclass(frozen=True, slots=True)
class RelayMetrics:
    """What a relay counts."""

    carrier: CarrierMetrics
    streams: StreamMetrics
    providers: ProviderMetrics
    limits: LimitMetrics
    registrations: RegistrationMetrics
    policy: PolicyMetrics
    audit: AuditMetrics
    watches: WatchMetrics

    @classmethod
    def on(cls, registry: CollectorRegistry) -> RelayMetrics:
        """Declare them on ``registry``."""
        return cls(
            carrier=CarrierMetrics(registry),
            streams=StreamMetrics(registry),
            providers=ProviderMetrics(registry),
            limits=LimitMetrics(registry),
            registrations=RegistrationMetrics(registry),
            policy=PolicyMetrics(registry),
            audit=AuditMetrics(registry),
            watches=WatchMetrics(registry),
        )


@dataclass(frozen=True, slots=True)
class AgentMetrics:
    """What an agent counts."""

    uplink: UplinkMetrics
    streams: StreamMetrics

    @classmethod
    def on(cls, registry: CollectorRegistry) -> AgentMetrics:
        """Declare them on ``registry``."""
        return cls(uplink=UplinkMetrics(registry), streams=StreamMetrics(registry))


@dataclass(frozen=True, slots=True)
class ControllerMetrics:
    """What a controller counts."""

    rpc: RpcMetrics
    store: StoreMetrics
    fleet: FleetMetrics

    @classmethod
    def on(cls, registry: CollectorRegistry) -> ControllerMetrics:
        """Declare them on ``registry``."""
        return cls(
            rpc=RpcMetrics(registry), store=StoreMetrics(registry), fleet=FleetMetrics(registry)
        )

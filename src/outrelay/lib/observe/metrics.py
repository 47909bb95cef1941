"""The numbers a running OutRelay keeps about itself, as Prometheus metric families.

Each service makes one registry (``new_registry``) and one of RelayMetrics, AgentMetrics and
ControllerMetrics on it, and hands the parts to the rooms that count. Names, types and
labels are declared here and nowhere else.

Invariant: a label takes its values from a small fixed set, never from what a peer sent.
A process's memory stays flat however many agents, tenants and services there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from outrelay import __version__


def new_registry() -> CollectorRegistry:
    """A registry that holds the version and the process's memory, time and files."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    Info("outrelay_build", "Which OutRelay this is.", registry=registry).info(
        {"version": __version__}
    )
    return registry


class CarrierMetrics:
    """Connections: relay and agent.

    Labels: ``role`` of the peer, ``carrier`` as ``Connection.carrier``; ``reason`` a phrase
    of our own, never the peer's text: a ``transport.refusal.Cause``, of connections a
    lower-case name of ErrorCode.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connections = Gauge(
            "outrelay_connections",
            "Verified connections that are up.",
            ["role", "carrier"],
            registry=registry,
        )
        self.handshakes_refused = Counter(
            "outrelay_handshakes_refused",
            "Connections refused before their peer was verified.",
            ["reason"],
            registry=registry,
        )
        self.connections_refused = Counter(
            "outrelay_connections_refused",
            "Verified connections closed for what their peer said, or for who it is.",
            ["reason"],
            registry=registry,
        )
        self.datagrams_dropped = Counter(
            "outrelay_datagrams_dropped",
            "Datagrams that belong to no connection and begin none.",
            ["reason"],
            registry=registry,
        )


class StreamMetrics:
    """Streams and their bytes: relay and agent.

    Labels: ``result`` is ``closed`` for a stream that came to its end on both sides, a
    lower-case name of ErrorCode for one that was reset, a number of RejectCode for one that
    was refused; ``direction`` is ``up`` from the consumer, ``down`` to it.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.open = Gauge("outrelay_streams_open", "Streams that are spliced.", registry=registry)
        self.opened = Counter(
            "outrelay_streams_opened", "Streams that were spliced.", registry=registry
        )
        self.resumed = Counter(
            "outrelay_streams_resumed",
            "Streams that went on after a connection of theirs was lost.",
            registry=registry,
        )
        self.ended = Counter(
            "outrelay_streams_ended",
            "Streams that ended or were refused.",
            ["result"],
            registry=registry,
        )
        carried = Counter(
            "outrelay_stream_bytes",
            "Payload bytes carried by streams.",
            ["direction"],
            registry=registry,
        )
        self.bytes_up = carried.labels("up")
        self.bytes_down = carried.labels("down")


class RegistrationMetrics:
    """Registrations of services. Label: ``code`` is a number of RejectCode."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = Counter(
            "outrelay_registrations_refused",
            "Registrations that were refused.",
            ["code"],
            registry=registry,
        )


class ProviderMetrics:
    """Providers as the relay asks them. Label: ``code`` is a number of RejectCode."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = Counter(
            "outrelay_provider_refusals",
            "Providers that were asked to serve a stream and did not accept.",
            ["code"],
            registry=registry,
        )


class LimitMetrics:
    """What agents and tenants use of a relay, and where that is bounded.

    Labels: ``what`` is ``streams``, ``opening``, ``halves`` or ``services``; ``limit`` is one of
    these or ``opens``, and who is bounded: ``streams_per_agent``, ``opens_per_tenant``.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.in_use = Gauge(
            "outrelay_in_use",
            "Streams, streams being opened or waiting to be resumed, services offered.",
            ["what"],
            registry=registry,
        )
        self.reached = Counter(
            "outrelay_limits_reached",
            "Streams and registrations refused because an agent or a tenant had too many.",
            ["limit"],
            registry=registry,
        )


class PolicyMetrics:
    """Policy as the relay applies it. Label: ``decision`` is ``allow`` or ``deny``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.decisions = Counter(
            "outrelay_policy_decisions",
            "Decisions about streams and registrations.",
            ["decision"],
            registry=registry,
        )
        self.rules = Gauge("outrelay_policy_rules", "Rules held.", registry=registry)


class AuditMetrics:
    """Audit events on their way from the relay to the controller."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queued = Gauge(
            "outrelay_audit_queue_events", "Audit events waiting in memory.", registry=registry
        )
        self.spooled = Gauge(
            "outrelay_audit_spool_events", "Audit events waiting in the spool.", registry=registry
        )
        self.dropped = Counter(
            "outrelay_audit_events_dropped",
            "Audit events lost because their tenant had no room.",
            registry=registry,
        )
        self.sent = Counter(
            "outrelay_audit_events_sent", "Audit events the controller stored.", registry=registry
        )


class RpcMetrics:
    """Calls the controller serves.

    Labels: ``method`` is the full name of the rpc, ``code`` the name of its status.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter(
            "outrelay_rpc_calls", "Calls that ended.", ["method", "code"], registry=registry
        )
        self.watchers = Gauge(
            "outrelay_watchers", "Watch streams that are open.", ["method"], registry=registry
        )


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
        )


@dataclass(frozen=True, slots=True)
class AgentMetrics:
    """What an agent counts."""

    carrier: CarrierMetrics
    streams: StreamMetrics

    @classmethod
    def on(cls, registry: CollectorRegistry) -> AgentMetrics:
        """Declare them on ``registry``."""
        return cls(carrier=CarrierMetrics(registry), streams=StreamMetrics(registry))


@dataclass(frozen=True, slots=True)
class ControllerMetrics:
    """What a controller counts."""

    rpc: RpcMetrics

    @classmethod
    def on(cls, registry: CollectorRegistry) -> ControllerMetrics:
        """Declare them on ``registry``."""
        return cls(rpc=RpcMetrics(registry))

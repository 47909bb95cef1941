"""Connections between agents and relays."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from outrelay.lib.observe.metrics.declare import counter, gauge


def connections(registry: CollectorRegistry) -> Gauge:
    """What a relay and an agent count alike."""
    return gauge(
        registry,
        "outrelay_connections",
        "Verified connections that are up.",
        {
            "role": "what the peer is: `agent` at a relay, `relay` at an agent",
            "carrier": "`quic` or `tcp`",
        },
        todo="A relay that suddenly has far fewer than before: look for a network fault or an"
        " expired CA. An agent without one: `outrelay-agent doctor`. Many on `tcp`: UDP is"
        " blocked.",
    )


def quic_engine(registry: CollectorRegistry) -> Gauge:
    """What builds the packets of a relay, and of an agent."""
    return gauge(
        registry,
        "outrelay_quic_engine_info",
        "Always 1.",
        {"engine": "what builds the packets of QUIC: `aioquic` or `native`"},
        todo="`aioquic` where `native` was meant: the extension is not installed in the environment"
        " that runs, or `--quic-engine` says so. It costs several times the CPU for each byte.",
    )


class CarrierMetrics:
    """Connections as the relay takes them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connections = connections(registry)
        self.engine = quic_engine(registry)
        self.handshakes_refused = counter(
            registry,
            "outrelay_handshakes_refused_total",
            "Connections refused before their peer was verified.",
            {
                "reason": "`certificate`, `alpn`, `handshake`, `timeout`, `peer`, `source limit`,"
                " `limit`"
            },
            todo="`certificate`: somebody has an expired certificate or one of another CA, the log"
            " says from where. `source limit`, `limit`: a flood, or too many agents behind one"
            " address that start at once.",
        )
        self.connections_refused = counter(
            registry,
            "outrelay_connections_refused_total",
            "Verified connections closed for what their peer said, or for who it is.",
            {"reason": "the protocol's error code: `denied`, `protocol`, `limit`, `drain`, ..."},
            todo="`denied`: an agent of another tenant. `protocol`: a broken or foreign client."
            " `limit`: one certificate is used by too many processes.",
        )
        self.datagrams_dropped = counter(
            registry,
            "outrelay_datagrams_dropped_total",
            "Datagrams that belong to no connection and begin none.",
            {"reason": "`forgotten`, `noise`, `proof`, `version`"},
            todo="`forgotten` rises for a moment after a restart. `noise` is scanners; if it costs"
            " much CPU, filter it before the relay.",
        )


class UplinkMetrics:
    """Connections as the agent makes them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connections = connections(registry)
        self.engine = quic_engine(registry)
        tries = counter(
            registry,
            "outrelay_uplink_connects_total",
            "Tries to connect with a relay, all relays that were tried at once as one.",
            {"result": "`connected` or `failed`"},
            todo="`failed` rises: `/readyz` of the agent and its log tell why, `outrelay-agent"
            " doctor` what to do.",
        )
        self.connected, self.failed = tries.labels("connected"), tries.labels("failed")
        self.lost = counter(
            registry,
            "outrelay_uplink_losses_total",
            "Connections with a relay that ended without this agent wanting it.",
            todo="A few are networks being networks. Many: an unstable network, a NAT that forgets"
            " fast, or a relay that is overloaded or restarted.",
        )

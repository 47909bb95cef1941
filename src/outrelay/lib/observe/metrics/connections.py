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
            known=(
                *("certificate", "alpn", "handshake", "timeout", "peer"),
                *("source limit", "limit"),
            ),
        )
        self.connections_refused = counter(
            registry,
            "outrelay_connections_refused_total",
            "Verified connections closed for what their peer said, or for who it is.",
            {"reason": "the protocol's error code: `denied`, `protocol`, `limit`, `drain`, ..."},
            todo="`denied`: an agent of another tenant. `protocol`: a broken or foreign client."
            " `limit`: one certificate is used by too many processes.",
            known=("denied", "protocol", "limit", "drain"),
        )
        self.datagrams_dropped = counter(
            registry,
            "outrelay_datagrams_dropped_total",
            "Datagrams that belong to no connection and begin none.",
            {"reason": "`forgotten`, `noise`, `proof`, `version`"},
            todo="`forgotten` rises for a moment after a restart. `noise` is scanners; if it costs"
            " much CPU, filter it before the relay.",
            known=("forgotten", "noise", "proof", "version"),
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
        self.refused = counter(
            registry,
            "outrelay_uplink_refusals_total",
            "Endpoints of relays that were dialled and gave no connection.",
            {
                "carrier": "`quic` or `tcp`",
                "reason": "`timeout`: no answer; `unreachable`: nobody listens, or no route;"
                " `name`: it has no address; `proxy`: the HTTP proxy would not; `certificate`: we"
                " do not believe the relay's; `alpn`: it speaks another protocol; `peer`: the relay"
                " ends the handshake, for our certificate or our protocol; `handshake`: anything"
                " else in it; `hello`: HELLO was refused, or not answered",
            },
            todo="`timeout` of `quic` while `tcp` connects: UDP is blocked. `certificate`: of"
            " another CA, expired, or not for `--server-name`. `peer`, `hello`: the relay's log"
            " says why. `outrelay-agent doctor` tries each and says what to do.",
        )
        self.lost = counter(
            registry,
            "outrelay_uplink_losses_total",
            "Connections with a relay that ended without this agent wanting it.",
            todo="A few are networks being networks. Many: an unstable network, a NAT that forgets"
            " fast, or a relay that is overloaded or restarted.",
        )

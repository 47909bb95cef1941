"""Streams: at relay and agent."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from outrelay.lib.observe.metrics.declare import counter, gauge, histogram

RELAYED = "relayed"
"""The path of bytes that go through a relay."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class StreamMetrics:
    """Streams and their bytes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.open = gauge(
            registry,
            "outrelay_streams_open",
            "Streams that are spliced.",
            todo="What the process carries: watch it against its limits and CPU, and add relays"
            " before either is reached.",
        )
        self.opened = counter(
            registry,
            "outrelay_streams_opened_total",
            "Streams that were spliced.",
            todo="Traffic. A sudden 0 where there usually is some: look at `outrelay_ready` and at"
            " `outrelay_streams_ended_total`.",
        )
        self.ended = counter(
            registry,
            "outrelay_streams_ended_total",
            "Streams that ended or were refused.",
            {
                "result": "`closed`: to its end on both sides; a reset's code: `cancelled`,"
                " `leg_lost`, `denied`, `drain`, `expired`, ...; a refusal's number: `403`, `404`,"
                " `429`, `502`, `503`, `504`"
            },
            todo="`403`: policy, `outrelay-cli policy explain`. `404`: nobody offers the service."
            " `429`: a limit, see `outrelay_limits_reached_total`. `502`, `503`: the provider or"
            " its backend. `504`: nobody answered in time. `leg_lost`, `expired`: streams that"
            " did not outlive a connection, the log says why.",
            known=(
                *("closed", "cancelled", "leg_lost", "denied", "drain", "expired"),
                *("403", "404", "429", "502", "503", "504"),
            ),
        )
        carried = counter(
            registry,
            "outrelay_stream_bytes_total",
            "Payload bytes carried by streams.",
            {
                "direction": "`up` from the consumer, `down` to it",
                "path": "`relayed`: through a relay",
            },
            todo="Traffic, for capacity and for bills.",
        )
        self.bytes_up = carried.labels("up", RELAYED)
        self.bytes_down = carried.labels("down", RELAYED)
        self.open_duration = histogram(
            registry,
            "outrelay_stream_open_duration_seconds",
            "From the wish for a stream to its splice: at a relay from the consumer's stream, at an"
            " agent from its application's connection.",
            buckets=_SECONDS,
            todo="High at the agent and low at the relay: the network between them. High at both:"
            " the provider or its backend is slow to answer.",
        )
        self.resumes = counter(
            registry,
            "outrelay_resumes_total",
            "Tries to go on with a stream after a connection of it was lost.",
            {
                "result": "`resumed`; else why not. At a relay, of each half: the protocol's error"
                " code (`expired`, `cancelled`, `drain`) or a refusal's number. At an agent:"
                " `window over`, `peer without resume/2`, `relay without resume/2`, `policy"
                " denies`, `relay refuses`, `agent stopped`, `bytes gone`, `reset`, `left`"
            },
            todo="Many that are not `resumed`: the two agents do not meet again. Give both the same"
            " `--relay` list, and raise `--resume-window` of the relays above the time a restart"
            " takes.",
            known=("resumed",),
        )
        self.resume_pause = histogram(
            registry,
            "outrelay_resume_pause_seconds",
            "How long resumed streams were without a connection; at a relay, how long the first of"
            " their two halves waited for the other.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
            todo="What users feel of a relay's restart or of a change of network. Long pauses:"
            " relays too far apart in the list, or `--dead-after` too long.",
        )

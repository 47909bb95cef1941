"""How much of the relay an agent and a tenant may use, and how long a peer is waited for.

Source: protocol.md sections 2, 4 and 5; commands.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from outrelay.relay.options import RelayOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one agent may, over all its connections, and all agents of its tenant together."""

    agent: int
    tenant: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one relay; seconds and bytes.

    Args:
        hello_timeout: From the handshake to HELLO.
        first_frame_timeout: For the first frame of a data stream.
        open_timeout: From there to the answer of a provider, however many are asked.
        policy_patience: For the first rules, where something is asked before they have come.
        arrival_patience: For a provider that was here until lately, or is at another relay.
        leaving_patience: For agents to go elsewhere when the relay stops and carries nothing.
        provider_patience: For one provider's answer, while another one can be asked.
        provider_tries: Providers asked for one stream.
        frame_bytes: Payload of a frame.
        outbox_bytes: Control frames an agent has not taken yet; above, it is disconnected.
        connections_per_agent: Replicas that share one certificate.
        services: Offered; the same one by several processes of an agent is one.
        registrations_per_second: Changes to what one agent offers, in the long run.
        registrations_burst: Changes to what one agent offers, at once.
        streams: That consumers have, also those being opened.
        opening: Streams of which nobody has accepted yet; each may hold 1 MiB that nobody reads.
        resume_window: From a half of a stream to its other half.
        halves: That wait for that.
        early_bytes: That they have said too early, all of them; each at most a frame's length.
        opens_per_second: Streams opened in the long run; twice as many at once.
        stalled_bytes: That streams may hold which nobody reads, of all agents; with the windows
            they begin with each direction may hold 1.5 MiB.
    """

    hello_timeout: float = 5.0
    first_frame_timeout: float = 5.0
    open_timeout: float = 10.0
    policy_patience: float = 5.0
    arrival_patience: float = 3.0
    leaving_patience: float = 1.0
    provider_patience: float = 2.0
    provider_tries: int = 3
    frame_bytes: int = 64 * 1024
    outbox_bytes: int = 1024 * 1024
    connections_per_agent: int = 256
    services: Bounds = Bounds(agent=1000, tenant=10_000)
    registrations_per_second: float = 20.0
    registrations_burst: int = 2000
    streams: Bounds = Bounds(agent=10_000, tenant=100_000)
    opening: Bounds = Bounds(agent=1024, tenant=8192)
    resume_window: float = 30.0
    halves: Bounds = Bounds(agent=10_000, tenant=100_000)
    early_bytes: int = 64 * 2**20
    opens_per_second: Bounds = Bounds(agent=1000, tenant=10_000)
    stalled_bytes: int = 1 << 30


def limits_of(options: RelayOptions) -> Limits:
    """What the command line says of them."""
    return Limits(
        streams=Bounds(agent=options.max_streams_per_agent, tenant=options.max_streams_per_tenant),
        opens_per_second=Bounds(
            agent=options.opens_per_second, tenant=options.opens_per_second_per_tenant
        ),
        resume_window=options.resume_window,
        services=Bounds(
            agent=options.max_services_per_agent, tenant=options.max_services_per_tenant
        ),
    )

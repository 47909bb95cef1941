"""What tables show of relays, agents, services and streams. Pure.

A terminal gets the beginnings of agents' names, and with more room more columns; JSON and
YAML have everything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter

from outrelay.cli.output import MEDIUM, SPARE, WIDE, Column, age, left, short_name, size, word
from outrelay.cli.watch.rates import Rate, RateOf, RowT
from outrelay.lib.control.v1 import fleet_pb2, registry_pb2
from outrelay.lib.identity.uri import SCHEME

Stream = fleet_pb2.StreamInfo
Relay = registry_pb2.RelayInfo
Agent = registry_pb2.AgentInfo
Service = registry_pb2.ServiceInfo

PLAIN = "plain"
"""An agent of another implementation, by its features."""

MOST_NAMED = 3
"""Services of an agent that a table names."""


_CARRIED: tuple[Column[Relay], ...] = (
    Column(
        title="UP",
        text=lambda relay: size(relay.bytes_up) if relay.bytes_up else "",
        whole=True,
        least=WIDE,
    ),
    Column(
        title="DOWN",
        text=lambda relay: size(relay.bytes_down) if relay.bytes_down else "",
        whole=True,
        least=WIDE,
    ),
)

_MOVED: tuple[Column[Stream], ...] = (
    Column(title="UP", text=lambda stream: size(stream.bytes_up), whole=True),
    Column(title="DOWN", text=lambda stream: size(stream.bytes_down), whole=True),
)


def relays(now_ms: int, rate_of: RateOf[Relay] | None = None) -> tuple[Column[Relay], ...]:
    """Columns of relays."""
    return (
        Column(title="RELAY", text=lambda relay: relay.id),
        Column(title="REGION", text=lambda relay: relay.region, least=SPARE + 1),
        Column(title="STATE", text=state_of, whole=True),
        Column(title="ENDPOINT", text=lambda relay: relay.endpoint, least=SPARE),
        Column(title="TCP", text=lambda relay: relay.tcp_endpoint, least=WIDE),
        Column(title="AGENTS", text=lambda relay: _told(relay, str(relay.agents)), whole=True),
        Column(title="STREAMS", text=lambda relay: _told(relay, str(relay.streams)), whole=True),
        *(_rates(rate_of) if rate_of else _CARRIED),
        Column(title="SINCE", text=lambda relay: since(relay.started_unix_ms, now_ms), whole=True),
        Column(
            title="CERT",
            text=lambda relay: left(relay.certificate_not_after_unix_ms, now_ms),
            whole=True,
        ),
        Column(title="VERSION", text=lambda relay: relay.version, least=MEDIUM),
    )


def agents(
    now_ms: int, rate_of: RateOf[Agent] | None = None, *, tenants: bool
) -> tuple[Column[Agent], ...]:
    """Columns of agents; ``tenants``: they are of more than one."""
    return (
        Column(title="AGENT", text=lambda agent: short_name(agent.agent_uri), whole=True),
        Column(title="TENANT", text=lambda agent: agent.tenant if tenants else ""),
        Column(title="RELAY", text=lambda agent: agent.relay_id),
        Column(title="CARRIER", text=lambda agent: agent.carrier, whole=True),
        Column(title="SINCE", text=lambda agent: since(agent.since_unix_ms, now_ms), whole=True),
        Column(title="SERVICES", text=services_of, least=SPARE),
        Column(title="STREAMS", text=streams_of, whole=True),
        *_rates(rate_of, "SENT/s", "GOT/s"),
        Column(
            title="CERT",
            text=lambda agent: left(agent.certificate_not_after_unix_ms, now_ms),
            whole=True,
        ),
        Column(title="ADDRESS", text=lambda agent: agent.address, least=MEDIUM),
        Column(title="FEATURES", text=features_of, least=WIDE),
        Column(title="URI", text=lambda agent: agent.agent_uri, whole=True, least=WIDE),
    )


def services(
    now_ms: int, rate_of: RateOf[Service] | None = None, *, tenants: bool
) -> tuple[Column[Service], ...]:
    """Columns of services; ``tenants``: they are of more than one."""
    return (
        Column(title="SERVICE", text=lambda service: service.service),
        Column(title="TENANT", text=lambda service: service.tenant if tenants else ""),
        Column(title="AGENT", text=lambda service: short_name(service.agent_uri), whole=True),
        Column(title="RELAY", text=lambda service: service.relay_id),
        Column(title="REGION", text=lambda service: service.region, least=MEDIUM),
        Column(
            title="STATE",
            text=lambda service: word(registry_pb2.ServiceState.DESCRIPTOR, service.state),
            whole=True,
        ),
        Column(title="BACKEND", text=lambda service: service.local_addr),
        *_rates(rate_of),
        Column(
            title="SINCE", text=lambda service: since(service.updated_unix_ms, now_ms), whole=True
        ),
        Column(title="WEIGHT", text=lambda service: _some(service.weight), least=MEDIUM),
        Column(title="PRIORITY", text=lambda service: _some(service.priority), least=MEDIUM),
        Column(title="URI", text=lambda service: service.agent_uri, whole=True, least=WIDE),
    )


def streams(
    now_ms: int, rate_of: RateOf[Stream] | None = None, *, tenants: bool
) -> tuple[Column[Stream], ...]:
    """Columns of streams; ``tenants``: they are of more than one."""
    return (
        Column(title="STREAM", text=lambda stream: stream.stream_id, whole=True),
        Column(title="TENANT", text=lambda stream: stream.tenant if tenants else ""),
        Column(title="SERVICE", text=lambda stream: stream.service),
        Column(title="METHOD", text=lambda stream: stream.method, least=WIDE),
        Column(
            title="CALLER",
            text=lambda stream: stream.caller.removeprefix(SCHEME),
            short=lambda stream: short_name(stream.caller),
            whole=True,
        ),
        Column(
            title="PROVIDER",
            text=lambda stream: stream.provider.removeprefix(SCHEME),
            short=lambda stream: short_name(stream.provider),
            whole=True,
        ),
        Column(title="AGE", text=lambda stream: since(stream.opened_unix_ms, now_ms), whole=True),
        *(_rates(rate_of) if rate_of else _MOVED),
        Column(title="RELAY", text=lambda stream: stream.relay_id, least=SPARE),
        Column(title="PATH", text=lambda stream: stream.path, least=WIDE),
    )


def state_of(relay: Relay) -> str:
    """A relay's state: up, draining, gone (after it drained), dead or away.

    One that is away gives signs of life, or never did so regularly, and is not attached to the
    controller: it is of another implementation, or has just lost its connection.
    """
    if relay.attached_unix_ms:
        return "draining" if relay.draining else "up"
    if not relay.alive:
        return "dead"
    return "gone" if relay.draining else "away"


def services_of(agent: Agent) -> str:
    """The services an agent offers, the first ones by name."""
    named = list(agent.services[:MOST_NAMED])
    more = agent.services_count - len(named)
    return ", ".join(named) + (f" +{more}" if more > 0 else "")


def streams_of(agent: Agent) -> str:
    """How many streams it serves, and how many it has opened."""
    return f"{agent.serving} in, {agent.consuming} out"


def features_of(agent: Agent) -> str:
    """What it can do beyond the least."""
    return " ".join(agent.features) or PLAIN


def since(unix_ms: int, now_ms: int) -> str:
    """How long ago; nothing for 0."""
    return age((now_ms - unix_ms) / 1000) if unix_ms else ""


def _rates(
    rate_of: RateOf[RowT] | None, up: str = "UP/s", down: str = "DOWN/s"
) -> tuple[Column[RowT], ...]:
    """Columns of what passes in a second, when that was asked for."""
    if rate_of is None:
        return ()

    def text(row: RowT, of: Callable[[Rate], float]) -> str:
        rate = rate_of(row)
        return size(int(of(rate))) if rate else ""

    return (
        Column(title=up, text=partial(text, of=attrgetter("up")), whole=True),
        Column(title=down, text=partial(text, of=attrgetter("down")), whole=True),
    )


def _told(relay: Relay, text: str) -> str:
    """What only a relay that is attached tells."""
    return text if relay.attached_unix_ms else ""


def _some(number: int) -> str:
    return str(number) if number else ""

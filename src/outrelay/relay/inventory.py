"""Who is connected to this relay, and what the relay says of itself, for operators.

Everything is told from memory, and only of the tenant that is asked for.

Source: api/control/v1/registry.proto, AgentInfo; api/control/v1/fleet.proto, RelayStatus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice

from prometheus_client import CollectorRegistry

from outrelay import __version__
from outrelay.lib.control.v1 import fleet_pb2 as fleet
from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.observe.views import carried_bytes
from outrelay.lib.values import address_text
from outrelay.relay.edge.session import Roster, Session
from outrelay.relay.pairs import Pairs

MOST_SERVICES = 16
"""Services of one connection that are named."""

About = Callable[[], fleet.RelayStatus]
"""What the process knows of itself; who is connected is not its concern."""


def about(
    expires: Callable[[], float], started_ms: int, numbers: CollectorRegistry
) -> fleet.RelayStatus:
    """What a relay is.

    Args:
        expires: When its certificate ends, as things are; seconds since the epoch.
        started_ms: When it began, milliseconds since the epoch.
        numbers: What it counts.
    """
    return fleet.RelayStatus(
        version=__version__,
        started_unix_ms=started_ms,
        certificate_not_after_unix_ms=int(expires() * 1000),
        **carried_bytes(numbers),
    )


class Inventory:
    """Tells what there is.

    Args:
        roster: Who is connected.
        pairs: The streams.
        about: What the process knows of itself.
    """

    def __init__(self, roster: Roster, pairs: Pairs, about: About = fleet.RelayStatus) -> None:
        self._roster = roster
        self._pairs = pairs
        self._about = about

    def status(self, tenant: str) -> fleet.RelayStatus:
        """The relay as a tenant may see it, or as it is when ``tenant`` is empty."""
        status = self._about()
        if tenant:  # what others move is not the tenant's concern
            status.ClearField("bytes_up")
            status.ClearField("bytes_down")
        status.agents = sum(1 for _ in self._sessions(tenant))
        status.streams = sum(1 for pair in self._pairs if tenant in ("", pair.call.tenant))
        return status

    def agents(self, tenant: str, limit: int) -> Iterator[registry.AgentInfo]:
        """At most so many connections of a tenant's agents, or of everybody's."""
        consuming = Counter(pair.consumer for pair in self._pairs)
        for session in islice(self._sessions(tenant), limit):
            yield _agent(session, consuming[session])

    def _sessions(self, tenant: str) -> Iterator[Session]:
        return (each for each in self._roster if tenant in ("", each.tenant))


def _agent(session: Session, consuming: int) -> registry.AgentInfo:
    connection = session.connection
    return registry.AgentInfo(
        agent_uri=session.uri,
        tenant=session.tenant,
        session_id=session.id,
        address=address_text(connection.peer_address),
        carrier=connection.carrier,
        since_unix_ms=session.since_ms,
        features=sorted(session.features),
        services=sorted(session.services)[:MOST_SERVICES],
        services_count=len(session.services),
        consuming=consuming,
        serving=session.serving,
        certificate_not_after_unix_ms=int(connection.peer_expires * 1000),
    )

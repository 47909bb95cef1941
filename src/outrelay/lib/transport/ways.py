"""The ways to a relay: endpoints of every carrier, and how each is dialled.

Words: an *endpoint* is where something listens by one carrier. A *tier* is a set of endpoints
that are tried together, as ``dial.race`` has it.

Source: protocol.md section 1, Dialling.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from outrelay.lib.errors import Refused
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.carrier import Address, Connection, Dialer
from outrelay.lib.transport.dial import STAGGER, dial
from outrelay.lib.values import address_text


class Carrier(StrEnum):
    """What carries a connection to a relay, the better one first."""

    QUIC = "quic"
    TCP = "tcp"


class Endpoint(NamedTuple):
    """Where something listens.

    Args:
        carrier: What it speaks.
        address: A name or a numeric host, and a port.
    """

    carrier: Carrier
    address: Address

    def __str__(self) -> str:
        return f"{address_text(self.address)} ({self.carrier})"


class Route(NamedTuple):
    """Who dials, and what: an endpoint itself, or a proxy that leads to it."""

    dialer: Dialer
    address: Address


class Ways:
    """Dials endpoints.

    Args:
        dialers: One for each carrier there is.
        detour: For endpoints of tcp: the way around, or None.
    """

    def __init__(
        self,
        dialers: Mapping[Carrier, Dialer],
        *,
        detour: Callable[[Address], Route | None] = lambda _: None,
    ) -> None:
        self._dialers = dialers
        self._detour = detour

    async def dial(
        self, endpoint: Endpoint, *, roles: Collection[Role], server_name: str, limit: float
    ) -> Connection:
        """A connection to ``endpoint``, whichever of its addresses answers first.

        Args:
            endpoint: Where to.
            roles: Roles the peer's certificate may have.
            server_name: DNS name its certificate must hold; empty: any.
            limit: Seconds one address has to answer.

        Raises:
            Refused: No address answered in time, or one refused us for good.
        """
        route = self.route(endpoint)
        return await dial(
            route.dialer,
            route.address,
            roles=roles,
            server_name=server_name,
            limit=limit,
            # Each try of tcp costs the peer a handshake.
            stagger=STAGGER if endpoint.carrier is Carrier.TCP else 0.0,
        )

    def route(self, endpoint: Endpoint) -> Route:
        """How ``endpoint`` is reached.

        Raises:
            Refused: Nobody here speaks its carrier.
        """
        carrier, address = endpoint
        around = self._detour(address) if carrier is Carrier.TCP else None
        if around is not None:
            return around
        if carrier not in self._dialers:
            raise Refused(address_text(address), f"{carrier} is not spoken here")
        return Route(self._dialers[carrier], address)


def tiers(
    endpoints: Iterable[Endpoint],
    *,
    spare: Iterable[Endpoint] = (),
    known: Endpoint | None = None,
    avoided: Endpoint | None = None,
) -> list[Sequence[Endpoint]]:
    """What to try together, and what to try when that has had its head start.

    Args:
        endpoints: Those to use.
        spare: Those to use when the others do not answer.
        known: One that has worked here: it needs no head start of others.
        avoided: One to try last.
    """
    ranks: dict[Endpoint, int] = {}
    for each in endpoints:
        ranks[each] = 1 if each.carrier is Carrier.TCP else 0
    for each in spare:
        ranks.setdefault(each, 2)
    for special, rank in ((known, 0), (avoided, 3)):
        if special in ranks:
            ranks[special] = rank
    groups = ([each for each in ranks if ranks[each] == rank] for rank in range(4))
    return [group for group in groups if group]

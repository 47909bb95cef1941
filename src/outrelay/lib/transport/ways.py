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


class Detour(NamedTuple):
    """A way around what lies between: who dials, and what it dials instead."""

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
        detour: Callable[[Address], Detour | None] = lambda _: None,
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
        carrier, address = endpoint
        dialer = self._dialers.get(carrier)
        if dialer is None:
            raise Refused(address_text(address), f"{carrier} is not spoken here")
        over_tcp = carrier is Carrier.TCP
        if over_tcp and (detour := self._detour(address)):
            dialer, address = detour
        return await dial(
            dialer,
            address,
            roles=roles,
            server_name=server_name,
            limit=limit,
            stagger=STAGGER if over_tcp else 0.0,  # each try of tcp costs the peer a handshake
        )


def tiers(
    endpoints: Iterable[Endpoint], *, known: Endpoint | None = None, avoided: Endpoint | None = None
) -> list[Sequence[Endpoint]]:
    """What to try together, and what to try when that has had its head start.

    Args:
        endpoints: All there are.
        known: One that has worked here: it needs no head start of others.
        avoided: One to try last.
    """
    listed = list(dict.fromkeys(endpoints))
    first = [each for each in listed if each.carrier is Carrier.QUIC or each == known]
    groups = (
        [each for each in first if each != avoided],
        [each for each in listed if each not in first and each != avoided],
        [each for each in listed if each == avoided],
    )
    return [group for group in groups if group]

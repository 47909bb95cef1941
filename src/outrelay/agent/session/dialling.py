"""Which relay is dialled when, and by which carrier.

All relays are raced over QUIC, those over TCP join a second later; what has worked in this
network before needs not wait. A relay that did not answer HELLO, or lost us, comes last.

Source: protocol.md sections 1 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from outrelay.agent.options import AgentOptions
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.carrier import Connection
from outrelay.lib.transport.dial import race
from outrelay.lib.transport.known import KnownWays
from outrelay.lib.transport.network import fingerprint
from outrelay.lib.transport.ways import Carrier, Endpoint, Ways, tiers

FIRST = 2.0
MOST = 5.0
"""Seconds a relay has to answer: few at first, so that one that has just restarted is dialled
anew rather than at the next retransmission; doubled with every failure."""


@dataclass(frozen=True, slots=True)
class Link:
    """A connection, and the endpoint it was dialled at."""

    endpoint: Endpoint
    connection: Connection

    def close(self) -> None:
        """Give it up."""
        self.connection.close()


class Dialling:
    """Finds a way to a relay.

    Args:
        options: Relays, and where to keep what is known of them.
        ways: Connect to them.
    """

    def __init__(self, options: AgentOptions, ways: Ways) -> None:
        self._options = options
        self._ways = ways
        self._known = KnownWays(options.state_dir)
        self._quic = [each for each in options.endpoints if each.carrier is Carrier.QUIC]
        self._patience = FIRST
        self._spare: tuple[Endpoint, ...] = ()
        self.avoided: Endpoint | None = None
        """The endpoint to try last."""

    async def any_relay(self) -> Link:
        """A connection to whichever relay answers first.

        Raises:
            Refused: None did.
        """
        return await self._race(
            tiers(
                self._options.endpoints,
                spare=self._spare,
                known=self._known.last(fingerprint()),
                avoided=self.avoided,
            )
        )

    async def over_quic(self) -> Link:
        """The same, over QUIC alone.

        Raises:
            Refused: None answered.
        """
        return await self._race([self._quic])

    def can_climb(self, link: Link) -> bool:
        """Whether there is anything better than ``link``."""
        return link.endpoint.carrier is Carrier.TCP and bool(self._quic)

    def has_worked(self, link: Link, others: Sequence[Endpoint]) -> None:
        """A relay has answered HELLO.

        Args:
            link: How it was reached.
            others: Endpoints that may be used besides, as it says.
        """
        self.avoided = None
        self._patience = FIRST
        self._spare = tuple(others) or self._spare
        self._known.remember(fingerprint(), link.endpoint)

    def has_left(self, link: Link, others: Sequence[Endpoint]) -> None:
        """The relay at the end of ``link`` leaves, and names ``others`` instead."""
        self.avoided = link.endpoint
        self._spare = tuple(others) or self._spare

    def has_failed(self) -> None:
        """No relay would have us."""
        self._patience = min(2 * self._patience, MOST)

    async def _race(self, order: Sequence[Sequence[Endpoint]]) -> Link:
        return await race([[partial(self._dial, each) for each in tier] for tier in order])

    async def _dial(self, endpoint: Endpoint) -> Link:
        connection = await self._ways.dial(
            endpoint,
            roles={Role.RELAY},
            server_name=self._options.server_name,
            limit=self._patience,
        )
        return Link(endpoint, connection)

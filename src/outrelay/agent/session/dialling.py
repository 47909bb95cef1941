"""Which relay is dialled when, and by which carrier.

All relays are raced over QUIC, those over TCP join a second later; what has worked in this
network before needs not wait. A relay that did not answer HELLO, or told us to leave, comes last.

Agents whose streams were cut have to meet again: they return to the relay they were at, and
when that does not answer at once to the next one of the list, so that two with one list find
each other.

Source: protocol.md sections 1 and 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from outrelay.agent.options import AgentOptions
from outrelay.agent.session.proof import Proof
from outrelay.lib.errors import Refused
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.carrier import Connection
from outrelay.lib.transport.dial import HEAD_START, race
from outrelay.lib.transport.known import KnownWays
from outrelay.lib.transport.network import fingerprint
from outrelay.lib.transport.ways import Carrier, Endpoint, Ways, tiers

RETURN = 0.3
"""Seconds a relay has to itself before the next one of the list is dialled beside it."""

FIRST = 2.0
MOST = 5.0
"""Seconds a relay has to answer: few at first, so that one that has just restarted is dialled
anew rather than at the next retransmission; doubled with every failure."""


OnRefused = Callable[[Endpoint, Refused], None]


@dataclass(frozen=True, slots=True)
class Link:
    """A connection, and how it was made.

    Args:
        endpoint: Where it was dialled.
        connection: To a relay.
        superseded: Set when there is a newer certificate than the one it shows.
    """

    endpoint: Endpoint
    connection: Connection
    superseded: asyncio.Event

    def close(self) -> None:
        """Give it up."""
        self.connection.close()


class Dialling:
    """Finds a way to a relay.

    Args:
        options: Relays, and where to keep what is known of them.
        ways: Connect to them.
        proof: What they show.
        on_refused: Told of every endpoint that did not come to a connection.
    """

    def __init__(
        self,
        options: AgentOptions,
        ways: Ways,
        proof: Proof,
        on_refused: OnRefused = lambda _endpoint, _refused: None,
    ) -> None:
        self._options = options
        self._on_refused = on_refused
        self._ways = ways
        self._proof = proof
        self._known = KnownWays(options.state_dir)
        self._quic = [each for each in options.endpoints if each.carrier is Carrier.QUIC]
        self._patience = FIRST
        self._spare: tuple[Endpoint, ...] = ()
        self._lost: Endpoint | None = None
        self.avoided: Endpoint | None = None
        """The endpoint to try last."""

    async def any_relay(self) -> Link:
        """A connection to whichever relay answers first.

        Raises:
            Refused: None did.
        """
        order = tiers(
            self._options.endpoints,
            spare=self._spare,
            known=self._lost or self._known.last(fingerprint()),
            avoided=self.avoided,
        )
        if self._lost is None:
            return await self._race(order)
        first, *others = order
        back = [[each] for each in _from(self._lost, first)]
        later = [[partial(self._dial, each) for each in tier] for tier in others]
        return await race([[partial(self._race, back, RETURN)], *later])

    async def over_quic(self) -> Link:
        """The same, over QUIC alone.

        Raises:
            Refused: None answered.
        """
        return await self._race([self._quic])

    async def again(self, link: Link) -> Link:
        """One more connection to the very relay of ``link``: its name may lead to others, too.

        Raises:
            Refused: It did not answer.
        """
        carrier, address = link.endpoint
        if carrier is Carrier.QUIC:
            address = link.connection.peer_address
        return replace(await self._dial(Endpoint(carrier, address)), endpoint=link.endpoint)

    def can_climb(self, link: Link) -> bool:
        """Whether there is anything better than ``link``."""
        return link.endpoint.carrier is Carrier.TCP and bool(self._quic)

    def has_worked(self, link: Link, others: Sequence[Endpoint]) -> None:
        """A relay has answered HELLO.

        Args:
            link: How it was reached.
            others: Endpoints that may be used besides, as it says.
        """
        self.avoided = self._lost = None
        self._patience = FIRST
        self._spare = tuple(others) or self._spare
        self._known.remember(fingerprint(), link.endpoint)

    def has_left(self, link: Link, others: Sequence[Endpoint]) -> None:
        """The relay at the end of ``link`` leaves, and names ``others`` instead."""
        self.avoided, self._lost = link.endpoint, None
        self._spare = tuple(others) or self._spare

    def has_lost(self, link: Link) -> None:
        """The connection is gone, and streams with it."""
        self._lost = link.endpoint

    def has_failed(self, *, is_busy: bool) -> None:
        """No relay would have us.

        Args:
            is_busy: Streams live: a relay that comes back is to be dialled anew soon.
        """
        self._patience = FIRST if is_busy else min(2 * self._patience, MOST)

    @property
    def has_choice(self) -> bool:
        """Whether there is more than one relay to go to."""
        return len({*self._options.endpoints, *self._spare}) > 1

    async def _race(
        self, order: Sequence[Sequence[Endpoint]], head_start: float = HEAD_START
    ) -> Link:
        attempts = [[partial(self._dial, each) for each in tier] for tier in order]
        return await race(attempts, head_start=head_start)

    async def _dial(self, endpoint: Endpoint) -> Link:
        superseded = self._proof.superseded
        try:
            connection = await self._ways.dial(
                endpoint,
                roles={Role.RELAY},
                server_name=self._options.server_name,
                limit=self._patience,
            )
        except Refused as refused:
            self._on_refused(endpoint, refused)
            raise
        return Link(endpoint, connection, superseded)


def _from(first: Endpoint, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
    """The same, from ``first`` on and round."""
    at = endpoints.index(first) if first in endpoints else 0
    return [*endpoints[at:], *endpoints[:at]]

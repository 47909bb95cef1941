"""Who may begin a handshake with us, and the count of those who may not.

A handshake costs state and signatures. Above ``retry_above`` handshakes under way the sender
must first prove that it can hear us, above ``handshakes_max`` it is ignored.

Every source has a budget of handshakes (``budgets``), and a second one for those it has
proved its address for: whoever spends the first in somebody else's name only has them asked
for a proof, and nobody can spend the second one but its owner.

Source: RFC 9000 section 8.1.
"""

from __future__ import annotations

from typing import NamedTuple

from outrelay.lib.transport.budgets import Budgets, source_of
from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.quic.engine import EngineOptions
from outrelay.lib.transport.quic.header import INITIAL_MINIMUM, VERSION, Header
from outrelay.lib.transport.refusal import Cause, Refusal

_DESTINATION_MINIMUM = 8


class Ticket(NamedTuple):
    """A handshake that may begin; handed back with ``Gate.over`` when it is over."""

    budget: Budgets
    source: str


class Gate:
    """Judges first datagrams for one socket.

    Args:
        options: The engine's, with the limits.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._refused: dict[Cause, Refusal] = {}
        self.under_way = 0
        """Handshakes that were admitted and are not over."""
        self._unproven, self._proven = (
            Budgets(
                under_way=options.source_handshakes,
                per_second=options.source_rate,
                burst=options.source_burst,
            )
            for _ in range(2)
        )

    @property
    def is_full(self) -> bool:
        """Whether nobody may begin now."""
        return self.under_way >= self._options.handshakes_max

    def admit(self, address: Address, *, proven: bool, now: float) -> Ticket | Cause | None:
        """Whether somebody at ``address`` may begin a handshake.

        Args:
            address: Where its first datagram came from.
            proven: Whether it has proved that it hears us there.
            now: Monotonic seconds.

        Returns:
            The ticket; or why there is none; None: it must prove its address first.
        """
        if self.is_full:
            return Cause.LIMIT
        source = source_of(address[0])
        if proven:
            if not self._proven.take(source, now):
                return Cause.SOURCE_LIMIT
        elif self.under_way >= self._options.retry_above or not self._unproven.take(source, now):
            return None
        self.under_way += 1
        return Ticket(self._proven if proven else self._unproven, source)

    def over(self, ticket: Ticket) -> None:
        """A handshake that was admitted is over, in whatever way."""
        self.under_way -= 1
        ticket.budget.give_back(ticket.source)

    def refuse(self, cause: Cause, address: Address) -> None:
        """Count a datagram that came to nothing."""
        known = self._refused.get(cause)
        times = known.times + 1 if known else 1
        self._refused[cause] = Refusal(cause, address, times=times)

    def take_refusals(self) -> list[Refusal]:
        """Whom we turned away, once."""
        refused, self._refused = self._refused, {}
        return list(refused.values())

    def fault_of(self, header: Header, size: int) -> Cause | None:
        """Why a datagram of nobody we know can begin no handshake, as far as its header says."""
        if not self._options.accept_roles or size < INITIAL_MINIMUM:
            return Cause.NOISE
        if header.version != VERSION:
            return Cause.VERSION
        if not header.is_initial or len(header.destination) < _DESTINATION_MINIMUM:
            return Cause.NOISE
        return None

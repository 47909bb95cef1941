"""Shares: a bounded room that tenants fill, none of them at the cost of another.

A tenant has room while it holds less than is still free. Alone it comes to hold half of the
whole; of n tenants that take what they can get, each comes to hold an (n + 1)th, and as
much stays free for whoever comes next.

Source: control-plane.md, Audit (a quota per tenant); Choudhury and Hahne, Dynamic queue
length thresholds for shared-memory packet switches (1998), with a factor of 1.
"""

from __future__ import annotations

from collections import Counter


class Shares:
    """Who holds how much.

    Args:
        size: All there is; in whatever unit the amounts are.
    """

    def __init__(self, size: int) -> None:
        self._free = size
        self._held = Counter[str]()

    def has_room(self, tenant: str, *, part: float = 1.0) -> bool:
        """Whether a tenant may take more.

        Args:
            tenant: Who asks.
            part: The share it may fill, 0 to 1: of less, something is left for what matters.
        """
        return self._held[tenant] < self._free * part

    def take(self, tenant: str, amount: int) -> None:
        """Hold more, also where there is no room: who may not must not ask."""
        self._held[tenant] += amount
        self._free -= amount

    def give_back(self, tenant: str, amount: int) -> None:
        """Hold less; a tenant that holds nothing is forgotten."""
        self._free += amount
        self._held[tenant] -= amount
        assert self._held[tenant] >= 0
        if not self._held[tenant]:
            del self._held[tenant]

    @property
    def tenants(self) -> int:
        """How many hold something."""
        return len(self._held)

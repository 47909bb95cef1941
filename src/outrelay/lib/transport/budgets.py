"""How many handshakes one source may have: under way at a time, and begun in a second.

Words: a *source* is what one party usually has: an IPv4 address, the /64 network of an IPv6
address. Many agents may sit behind one, so a source that is out of budget is not refused: it
asks again, as clients do, and gets in when it has budget again.

Invariant: what is remembered is bounded, by the handshakes under way and by ``Rates``.
"""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv6Address, IPv6Network

from outrelay.lib.rates import Rates

_NETWORK_BITS = 64


class Budgets:
    """The budgets of all sources.

    Args:
        under_way: Handshakes of a source at a time.
        per_second: Handshakes of a source in the long run.
        burst: Handshakes of a source at once.
    """

    def __init__(self, *, under_way: int, per_second: float, burst: int) -> None:
        self._most = under_way
        self._under_way: Counter[str] = Counter()
        self._rates = Rates[str](per_second=per_second, burst=burst)

    def take(self, source: str, now: float) -> bool:
        """Begin a handshake of ``source``; False when that is over its budget.

        One that was begun must be given back when it is over.
        """
        if self._under_way[source] >= self._most or not self._rates.spend(source, now):
            return False
        self._under_way[source] += 1
        return True

    def give_back(self, source: str) -> None:
        """A handshake of ``source`` is over."""
        self._under_way[source] -= 1
        if not self._under_way[source]:
            del self._under_way[source]


def source_of(host: str) -> str:
    """The source a numeric address belongs to."""
    if ":" not in host:
        return host
    return str(IPv6Network((int(IPv6Address(host)), _NETWORK_BITS), strict=False))

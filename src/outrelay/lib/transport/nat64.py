"""IPv4 addresses on networks that carry IPv6 alone: the address their NAT64 gives them.

Where names are looked up the resolver does this (DNS64). An address that is written down needs
the network's prefix, which a name that has IPv4 addresses alone, well known ones, brings to
light: whatever IPv6 addresses it seems to have were made of them.

Source: RFC 6052 section 2; RFC 7050 section 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

PROBE = "ipv4only.arpa"
"""The name that has IPv4 addresses alone."""

_ITS_ADDRESSES = (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171"))
_LENGTHS = (96, 64, 56, 48, 40, 32)
_RESERVED = 8  # the byte that is always 0


class Prefix(NamedTuple):
    """What a network puts around IPv4 addresses: a pattern, and where in it they go."""

    pattern: bytes
    places: tuple[int, ...]

    def of(self, host: str) -> str:
        """The IPv6 address that leads to a numeric IPv4 host."""
        made = bytearray(self.pattern)
        for place, byte in zip(self.places, IPv4Address(host).packed, strict=True):
            made[place] = byte
        return str(IPv6Address(bytes(made)))


def prefixes(found: Iterable[str]) -> list[Prefix]:
    """The prefixes of a network where ``PROBE`` seems to have these IPv6 addresses."""
    made = (_prefix(IPv6Address(each).packed) for each in found)
    return list(dict.fromkeys(each for each in made if each is not None))


def _prefix(packed: bytes) -> Prefix | None:
    for length in _LENGTHS:
        first = length // 8
        places = tuple([at for at in range(first, first + 5) if at != _RESERVED][:4])
        if IPv4Address(bytes(packed[at] for at in places)) in _ITS_ADDRESSES:
            pattern = bytes(0 if at in places else byte for at, byte in enumerate(packed))
            return Prefix(pattern, places)
    return None

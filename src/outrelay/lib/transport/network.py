"""Which network this host is in, as far as its routes tell.

Two networks that give the same addresses to the same interfaces are taken for one: what is
remembered of a network is a first guess, nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

_PROC = Path("/proc/net")
_PREFIX_MOST = 127  # longer ones are addresses, and those of IPv6 change every day
_LOCAL = ("fe8", "ff")  # link-local and multicast: of every interface
_LOOPBACK = "lo"


def fingerprint(proc: Path = _PROC) -> str:
    """Another text in another network; empty where there is none, or none to be seen.

    Args:
        proc: Where the kernel's tables are.
    """
    routes = sorted({*_ipv4(proc / "route"), *_ipv6(proc / "ipv6_route")})
    return sha256("\n".join(routes).encode()).hexdigest()[:16] if routes else ""


def _ipv4(table: Path) -> Iterator[str]:
    for interface, destination, gateway, *rest in _rows(table, columns=8):
        if interface not in ("Iface", _LOOPBACK):
            yield f"{interface} {destination}/{rest[4]} {gateway}"


def _ipv6(table: Path) -> Iterator[str]:
    for destination, length, _, _, gateway, *_, interface in _rows(table, columns=10):
        if (
            interface != _LOOPBACK
            and int(length, 16) <= _PREFIX_MOST
            and not destination.startswith(_LOCAL)
        ):
            yield f"{interface} {destination}/{length} {gateway}"


def _rows(table: Path, *, columns: int) -> Iterator[list[str]]:
    try:
        lines = table.read_text().splitlines()
    except OSError:  # another system than Linux, or no IPv6
        return
    yield from (row for line in lines if len(row := line.split()) >= columns)

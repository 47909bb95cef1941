"""Values as people write them: addresses, durations, sizes.

Used for flags, configuration files and messages, so that all of them read the same.
"""

from __future__ import annotations

import re

Address = tuple[str, int]
"""A host (a name or a numeric address, without brackets) and a port."""

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_SIZE = re.compile(r"(\d+)(B|KiB|MiB|GiB)?")
_BYTES = {None: 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

_ADDRESS = re.compile(
    r"(?:\[(?P<bracketed>[0-9A-Fa-f:.%\w]+)\]|(?P<plain>[^\s:\[\]]+)):(?P<port>\d{1,5})"
)


def parse_duration(text: str) -> float:
    """Seconds of ``250ms``, ``10s``, ``5m``, ``24h``, ``90d``, ``1h30m`` or ``0``.

    Raises:
        ValueError: It is none of these; the message says how to write it.
    """
    if text == "0":
        return 0.0
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration; write it like 250ms, 10s, 5m, 24h or 90d")
    return sum(float(count) * _SECONDS[unit] for count, unit in _DURATION_PART.findall(text))


def parse_size(text: str) -> int:
    """Bytes of ``65536``, ``64KiB``, ``16MiB`` or ``1GiB``.

    Raises:
        ValueError: It is none of these; the message says how to write it.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write it like 64KiB, 16MiB or 65536")
    return int(match[1]) * _BYTES[match[2]]


def parse_address(text: str) -> Address:
    """Host and port of ``host:port`` or ``[::1]:443``; port 0 lets the system choose.

    Raises:
        ValueError: It is neither; the message says how to write it.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(f"{text!r} is not an address; write it like 127.0.0.1:7443 or [::1]:7443")
    return match["bracketed"] or match["plain"], int(match["port"])


def parse_optional_address(text: str) -> Address | None:
    """As ``parse_address``; None for an empty text, which turns a listener off.

    Raises:
        ValueError: It is no address.
    """
    return parse_address(text) if text else None


def address_text(address: Address) -> str:
    """``host:port``, with brackets around an IPv6 host: what ``parse_address`` reads."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

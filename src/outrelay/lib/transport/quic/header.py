"""The part of a QUIC packet header that says whose datagram it is.

Source: RFC 9000 section 17 and RFC 8999.
"""

from __future__ import annotations

from typing import NamedTuple

CID_LENGTH = 8
"""Length of the connection ids we choose; short headers do not say it."""

VERSION = 1
"""The version we speak."""

INITIAL_MINIMUM = 1200
"""Bytes of a datagram with a client's first packet, at least."""

_INITIAL = 0


class Header(NamedTuple):
    """What the first bytes of a datagram say; version 0 and no token for short headers."""

    is_long: bool
    is_initial: bool
    version: int
    destination: bytes
    source: bytes
    token: bytes


def parse_header(datagram: bytes) -> Header | None:
    """The header, or None for something that cannot be QUIC."""
    if len(datagram) < 1 + CID_LENGTH:
        return None
    if not datagram[0] & 0x80:
        return Header(False, False, 0, datagram[1 : 1 + CID_LENGTH], b"", b"")
    return _parse_long(datagram)


def _parse_long(datagram: bytes) -> Header | None:
    version = int.from_bytes(datagram[1:5], "big")
    at = 6 + datagram[5]
    if datagram[5] > 20 or len(datagram) <= at:
        return None
    destination = datagram[6:at]
    end = at + 1 + datagram[at]
    if datagram[at] > 20 or len(datagram) < end:
        return None
    source = datagram[at + 1 : end]
    is_initial = (datagram[0] >> 4) & 0b11 == _INITIAL
    token = _token(datagram, end) if is_initial and version == VERSION else b""
    if token is None:
        return None
    return Header(True, is_initial, version, destination, source, token)


def _token(datagram: bytes, at: int) -> bytes | None:
    if len(datagram) <= at:
        return None
    width = 1 << (datagram[at] >> 6)
    length = int.from_bytes(datagram[at : at + width], "big") & ((1 << (8 * width - 2)) - 1)
    start = at + width
    return datagram[start : start + length] if len(datagram) >= start + length else None

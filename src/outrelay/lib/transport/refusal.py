"""Why there was no connection, in words every carrier shares: who was turned away, and by whom."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from outrelay.lib.transport.carrier import Address


class Cause(StrEnum):
    """Why somebody was turned away, or we were: a small set, fit for a metric's label."""

    CERTIFICATE = "certificate"
    ALPN = "alpn"
    HANDSHAKE = "handshake"  # anything else that is wrong with it
    TIMEOUT = "timeout"
    PEER = "peer"  # it would not have us
    # Of those who dial:
    NAME = "name"  # it has no address
    UNREACHABLE = "unreachable"  # nobody listens there, or no route leads there
    PROXY = "proxy"  # the one in between would not
    HELLO = "hello"  # a verified peer that answers HELLO wrongly, or not at all
    # Of those who listen:
    PROOF = "proof"  # the proof of an address is not ours, or too old
    SOURCE_LIMIT = "source limit"  # too many handshakes of its address
    LIMIT = "limit"  # too many handshakes of everybody
    VERSION = "version"
    FORGOTTEN = "forgotten"  # a packet of a connection that is not here (any more)
    NOISE = "noise"


NO_HANDSHAKE = frozenset({Cause.PROOF, Cause.VERSION, Cause.FORGOTTEN, Cause.NOISE})
"""Causes of single datagrams that tried to begin no connection with us."""


class Refusal(NamedTuple):
    """Somebody was turned away, ``times`` times; the last one came from ``address``."""

    cause: Cause
    address: Address
    reason: str = ""
    times: int = 1


OnRefused = Callable[[Refusal], None]
"""Told of everybody turned away."""

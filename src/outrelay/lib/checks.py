"""What ``--check`` is made of: steps that raise ConfigError, collected as lines."""

from __future__ import annotations

import socket
from collections.abc import Callable

from outrelay.lib import advice
from outrelay.lib.errors import ConfigError
from outrelay.lib.values import Address, address_text


def faults_of(*steps: Callable[[], object]) -> list[str]:
    """The ConfigErrors that ``steps`` raise, one line each, in their order."""
    faults = []
    for step in steps:
        try:
            step()
        except ConfigError as error:
            faults.append(str(error))
    return faults


def try_bind(flag: str, address: Address, *, udp: bool) -> None:
    """Bind a socket to ``address`` and give it back.

    Args:
        flag: What the operator wrote the address for; the error names it.
        address: Host and port.
        udp: A UDP socket; else TCP.

    Raises:
        ConfigError: It cannot be bound.
    """
    host, port = address
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=kind)[0]
        with socket.socket(family, kind) as probe:
            if not udp:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        fault = f"cannot listen on {address_text(address)}: {error.strerror}"
        raise ConfigError(flag, fault, advice.on_address(error)) from error

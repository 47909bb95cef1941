"""Sockets of the carriers: bound to an address of either family, or to every one of both.

A wildcard IPv6 socket carries IPv4 too; nobody outside of a carrier sees its mapped addresses.

Source: Linux ipv6(7) (IPV6_V6ONLY).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from outrelay.lib import advice
from outrelay.lib.errors import ConfigError
from outrelay.lib.transport.carrier import Address
from outrelay.lib.values import address_text

EVERYWHERE = "::"
MAPPED = "::ffff:"
"""What an IPv4 address begins with on an IPv6 socket."""

_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def bind(
    address: Address, kind: socket.SocketKind, prepare: Callable[[socket.socket], None]
) -> socket.socket:
    """A non-blocking socket bound to ``address``.

    Args:
        address: Numeric host and port; host ``::`` means every address of both families,
            or of IPv4 alone where there is no IPv6.
        kind: SOCK_DGRAM or SOCK_STREAM.
        prepare: Sets what has to be set before the socket is bound.

    Raises:
        OSError: It cannot be bound.
    """
    host, port = address
    if host != EVERYWHERE:
        return _open(family_of(host), kind, address, prepare)
    try:
        return _open(socket.AF_INET6, kind, address, prepare)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
        return _open(socket.AF_INET, kind, ("0.0.0.0", port), prepare)  # noqa: S104 - asked for


@contextmanager
def config_errors(address: Address, protocol: str) -> Iterator[None]:
    """Raise ConfigError when ``address`` cannot be bound: the operator has to change it.

    Args:
        address: Of a listener.
        protocol: What it listens for, "TCP" or "UDP".
    """
    try:
        yield
    except OSError as error:
        where = f"{address_text(address)} ({protocol})"
        fault = f"cannot be bound: {error.strerror}"
        raise ConfigError(where, fault, advice.on_address(error)) from error


def _open(
    family: socket.AddressFamily,
    kind: socket.SocketKind,
    address: Address,
    prepare: Callable[[socket.socket], None],
) -> socket.socket:
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            only = int(address[0] != EVERYWHERE)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        prepare(sock)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def family_of(host: str) -> socket.AddressFamily:
    """The family of a numeric host."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def try_option(sock: socket.socket, level: int, option: int, value: int) -> bool:
    """Set an option that not every kernel has; whether this one does."""
    try:
        sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True


def unmapped(address: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    """An address as the socket module has it, as all others write it."""
    host, port = address[:2]
    if host.startswith(MAPPED):
        return host[len(MAPPED) :], port
    return (str(ipaddress.ip_address(host)), port) if "%" in host else (host, port)

"""TCP sockets of applications and backends: non-blocking, driven by the event loop."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import suppress
from functools import partial

from outrelay.lib.errors import Refused
from outrelay.lib.transport.dial import race, resolve
from outrelay.lib.values import Address, address_text

BACKLOG = 1024
"""Connections the kernel holds for a listener that is busy."""

HEAD_START = 0.25
"""Seconds an address has to answer before the name's next one is tried beside it."""

_AT_ONCE = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds
_IN_ORDER = struct.pack("ii", 0, 0)


def listen(address: Address) -> socket.socket:
    """A socket that listens on ``address``; on the first one a name stands for.

    Raises:
        OSError: It cannot.
    """
    host, port = address
    family, kind, protocol, _, target = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(target)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


async def connect(address: Address) -> socket.socket:
    """A connection to ``address``; of the addresses a name stands for, the first to answer.

    Raises:
        Refused: The name has no address, or none that takes the connection.
    """
    tiers = [[partial(_connect, each)] for each in await resolve(address)]
    return await race(tiers, head_start=HEAD_START)


async def _connect(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        prepare(sock)
        if not _is_there(sock, address):
            await asyncio.get_running_loop().sock_connect(sock, address)
    except OSError as error:
        sock.close()
        raise Refused(address_text(address), fault(error)) from error
    except BaseException:
        sock.close()
        raise
    return sock


def _is_there(sock: socket.socket, address: Address) -> bool:
    """Begin to connect; whether that is done: on one machine it is, and nobody has to wait."""
    with suppress(BlockingIOError):
        sock.connect(address)
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def prepare(sock: socket.socket) -> None:
    """Make ``sock`` non-blocking, and small writes leave at once.

    Until ``close`` says otherwise its end is an RST, also that which the system makes of it when
    this process is killed.
    """
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)


async def readable(sock: socket.socket) -> None:
    """Return when a read from ``sock`` would not block."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock.fileno())


def close(sock: socket.socket) -> None:
    """Close ``sock``; what was written arrives, and the end of it. Idempotent."""
    _close(sock, _IN_ORDER)


def abort(sock: socket.socket) -> None:
    """Close ``sock`` with an RST: what the peer has read is not all there was. Idempotent."""
    _close(sock, _AT_ONCE)


def _close(sock: socket.socket, linger: bytes) -> None:
    with suppress(OSError):  # it is closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    sock.close()


def address_of(sock: socket.socket) -> Address:
    """Where ``sock`` is bound."""
    host, port = sock.getsockname()[:2]
    return host, port


def fault(error: OSError) -> str:
    """What went wrong, without the addresses that asyncio adds."""
    return os.strerror(error.errno) if error.errno else str(error)

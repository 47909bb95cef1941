"""TCP sockets as the carrier wants them.

Small frames leave at once, and the kernel itself gives up on a peer that acknowledges
nothing for as long as the session would wait for it: a dead path wakes whoever uses it.

Source: protocol.md section 1; Linux tcp(7).
"""

from __future__ import annotations

import socket

from outrelay.lib.transport.sockets import try_option

SILENCE = 10
"""Seconds without a sign of life after which a peer is dead."""

_IDLE, _INTERVAL = 5, 2
"""Seconds until the kernel asks an idle peer, and between two questions."""


_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _INTERVAL),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, (SILENCE - _IDLE) // _INTERVAL),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE * 1000),
)


def prepare(sock: socket.socket) -> None:
    """Set what a connection of ours needs; the socket no longer blocks."""
    sock.setblocking(False)
    for level, option, value in _OPTIONS:
        try_option(sock, level, option, value)

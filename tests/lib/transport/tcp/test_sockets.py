"""What the carrier asks of its sockets."""

from __future__ import annotations

import socket

import pytest

from outrelay.lib.transport.tcp.sockets import prepare


@pytest.mark.parametrize(
    ("level", "option", "value"),
    [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    ],
)
def test_small_frames_leave_at_once_and_dead_peers_are_noticed(
    level: int, option: int, value: int
) -> None:
    with socket.socket() as sock:
        prepare(sock)
        assert sock.getsockopt(level, option) == value
        assert not sock.getblocking()

"""What the carrier asks of its sockets."""

from __future__ import annotations

import socket

from outrelay.lib.transport.tcp.connection import TcpConnection
from outrelay.lib.transport.tcp.dialer import TcpDialer
from outrelay.lib.transport.tcp.listener import TcpListener
from outrelay.lib.transport.tcp.sockets import prepare
from tests.lib.transport.carriers import LOOPBACK, PKI, join

ASKED = {
    (socket.IPPROTO_TCP, socket.TCP_NODELAY): 1,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 10_000,
    # Silence for 5 s, then a question every 2 s: two without an answer, and it is gone.
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 5,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 2,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 2,
}
"""Small frames leave at once, and a dead peer is noticed in 10 s, by the kernel as by us."""


def asked_of(sock: socket.socket) -> dict[tuple[int, int], int]:
    """The same options as the socket has them."""
    return {option: sock.getsockopt(*option) for option in ASKED}


def test_a_socket_is_prepared() -> None:
    with socket.socket() as sock:
        prepare(sock)
        assert asked_of(sock) == ASKED
        assert not sock.getblocking()


async def test_both_ends_of_a_connection_are_prepared() -> None:
    listener = await TcpListener.bind(LOOPBACK, credentials=PKI.relay(), trust=PKI.trust)
    dialer = TcpDialer(credentials=PKI.agent(), trust=PKI.trust)
    pair = await join(listener, dialer)
    for end in (pair.near, pair.far):
        assert isinstance(end, TcpConnection)
        assert asked_of(end._link._socket) == ASKED
        assert end.session._idle_timeout == 10.0
    await dialer.close()
    await listener.close()

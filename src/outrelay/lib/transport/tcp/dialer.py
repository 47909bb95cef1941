"""Dials over TCP, directly or through a proxy.

Invariant: a connection that was begun goes through its handshake and is closed then, also when
nobody waits for it any more: there are listeners of other implementations that stop accepting
when a peer vanishes in between. Who closes the dialler waits a little for that.

Source: protocol.md section 1, Dialling.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection
from functools import partial

from outrelay.lib.errors import Closed, ErrorCode, Refused
from outrelay.lib.identity.certs import Credentials, Trust
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.refusal import Cause
from outrelay.lib.transport.sockets import family_of
from outrelay.lib.transport.tcp.connection import TcpConnection
from outrelay.lib.transport.tcp.connections import FAREWELL, Connections
from outrelay.lib.transport.tcp.opening import Opening, Stage
from outrelay.lib.transport.tcp.proxy import Connect, Proxies, Proxy
from outrelay.lib.transport.tcp.sockets import prepare
from outrelay.lib.transport.tcp.tls import HandshakeFailed, TlsContext
from outrelay.lib.transport.ways import Route
from outrelay.lib.values import address_text

HANDSHAKE_TIMEOUT = 10.0
"""Seconds an opening may take, also one that nobody waits for."""

_REFUSED = frozenset({ErrorCode.DENIED, ErrorCode.PROTOCOL})
"""Codes of a connection closed before it was confirmed that say: do not try again."""

_Answer = asyncio.Future[TcpConnection]


class TcpDialer:
    """Dialer of the carrier port.

    Args:
        credentials: What we show.
        trust: Whom the peers' certificates must come from.
        alpn: The one protocol spoken.
        handshake_timeout: Seconds an opening may take.
        idle_timeout: Seconds without a sign of life that a connection survives.

    Raises:
        IdentityError: Our certificate cannot be used.
    """

    def __init__(
        self,
        *,
        credentials: Credentials,
        trust: Trust,
        alpn: str = "orp/1",
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
        idle_timeout: float = 10.0,
    ) -> None:
        self._context = TlsContext(credentials=credentials, trust=trust, server=False, alpn=alpn)
        self._handshake_timeout = handshake_timeout
        self._idle_timeout = idle_timeout
        self._loop = asyncio.get_running_loop()
        self._openings: dict[Opening, _Answer] = {}
        self._none_under_way = asyncio.Event()
        self._none_under_way.set()
        self._connections = Connections()
        self._closed = False

    async def dial(
        self,
        address: Address,
        *,
        roles: Collection[Role],
        server_name: str = "localhost",
        before: Stage | None = None,
    ) -> TcpConnection:
        """See the port; ``before`` comes between the connection and the TLS handshake."""
        peer = address_text(address)
        if self._closed:
            raise Refused(peer, "the dialler is closed")
        try:
            sock = socket.socket(family_of(address[0]), socket.SOCK_STREAM)
        except OSError as error:
            reason = error.strerror or str(error)
            raise Refused(peer, reason, cause=Cause.UNREACHABLE) from error
        prepare(sock)
        connection = await self._open(sock, address, roles, server_name, before)
        try:
            await connection.wait_confirmed()
        except Closed as closed:
            final = closed.by_peer and closed.code in _REFUSED
            cause = Cause.PEER if closed.by_peer else Cause.HANDSHAKE
            raise Refused(peer, closed.reason or str(closed), final=final, cause=cause) from closed
        except asyncio.CancelledError:
            connection.close()
            raise
        return connection

    def show(self, credentials: Credentials) -> None:
        """Show ``credentials`` from the next handshake on.

        Raises:
            IdentityError: They cannot be used.
        """
        self._context = self._context.showing(credentials)

    async def close(self) -> None:
        """Close all connections; what is about to become one has a moment to do so before."""
        self._closed = True
        for opening, answer in list(self._openings.items()):
            if not answer.done():
                answer.set_exception(Refused("dial", "the dialler is closed"))
            if not opening.has_begun:
                self._drop(opening)
        try:
            async with asyncio.timeout(FAREWELL):
                await self._none_under_way.wait()
        except TimeoutError:
            pass
        finally:
            for opening in list(self._openings):
                self._drop(opening)
            await self._connections.close()

    def _drop(self, opening: Opening) -> None:
        opening.close()
        self._forget(opening)

    def _forget(self, opening: Opening) -> None:
        del self._openings[opening]
        if not self._openings:
            self._none_under_way.set()

    async def _open(
        self,
        sock: socket.socket,
        address: Address,
        roles: Collection[Role],
        server_name: str,
        before: Stage | None,
    ) -> TcpConnection:
        """A connection whose TLS handshake is over; cancelled, it goes on and is closed then."""
        answer: _Answer = self._loop.create_future()
        opening = Opening(
            sock,
            self._context.layer(roles, server_name),
            before=before,
            limit=self._handshake_timeout,
            on_over=partial(self._opened, answer, address),
        )
        self._openings[opening] = answer
        self._none_under_way.clear()
        opening.connect(address)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                answer.result().close()
            raise

    def _opened(
        self, answer: _Answer, address: Address, opening: Opening, failure: HandshakeFailed | None
    ) -> None:
        self._forget(opening)
        if failure is not None:
            if not answer.done():
                refused = Refused(
                    address_text(address), failure.reason, final=failure.final, cause=failure.cause
                )
                answer.set_exception(refused)
            return
        connection = TcpConnection(
            opening.sock,
            opening.tls,
            dialled=True,
            on_closed=lambda connection, _: self._connections.discard(connection),
            idle_timeout=self._idle_timeout,
        )
        self._connections.add(connection)
        if answer.done():  # nobody waits any more
            connection.close()
        else:
            answer.set_result(connection)


class Tunnel:
    """A Dialer that reaches one endpoint through a proxy; what it dials are the proxy's addresses.

    Args:
        dialer: Connects to the proxy.
        proxy: Who leads on.
        target: Where to.
    """

    def __init__(self, dialer: TcpDialer, proxy: Proxy, target: Address) -> None:
        self._dialer = dialer
        self._proxy = proxy
        self._target = target

    async def dial(
        self, address: Address, *, roles: Collection[Role], server_name: str = "localhost"
    ) -> TcpConnection:
        before = Connect(self._proxy, self._target)
        try:
            return await self._dialer.dial(
                address, roles=roles, server_name=server_name, before=before
            )
        except Refused as refused:
            way = f"{address_text(self._target)} through the proxy {self._proxy}"
            raise Refused(
                way, refused.reason, final=refused.final, cause=refused.cause
            ) from refused


def through_proxies(dialer: TcpDialer, proxies: Proxies) -> Callable[[Address], Route | None]:
    """Finds the way around, as ``Ways`` wants to know it.

    Args:
        dialer: Connects to proxies.
        proxies: Says which endpoints are reached through one.
    """

    def detour(endpoint: Address) -> Route | None:
        proxy = proxies.towards(endpoint)
        return Route(Tunnel(dialer, proxy, endpoint), proxy.address) if proxy else None

    return detour

"""Accepts connections over TCP: handshakes that cost strangers more than us.

Words: a *stranger* is a socket from the moment it is accepted until its peer is verified and
has answered a ping: in TLS 1.3 a client is done before the server has judged it, and it may
itself refuse what the server showed. Only then does a connection go to ``accept``.

Invariants: strangers are bounded, all together and of one source, and each has its time. When
all places are taken, or the process has no more files, nobody is accepted for a while; the
kernel keeps who comes. Everybody turned away is told of.

Source: protocol.md section 1.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from outrelay.lib.errors import Closed, ErrorCode
from outrelay.lib.identity.certs import Credentials, Trust
from outrelay.lib.identity.uri import Role
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.throttle import Throttle
from outrelay.lib.transport.budgets import Budgets, source_of
from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.refusal import Cause, OnRefused, Refusal
from outrelay.lib.transport.sockets import bind, config_errors, unmapped
from outrelay.lib.transport.tcp.connection import TcpConnection
from outrelay.lib.transport.tcp.connections import Connections
from outrelay.lib.transport.tcp.opening import Opening
from outrelay.lib.transport.tcp.sockets import prepare
from outrelay.lib.transport.tcp.tls import HandshakeFailed, TlsContext
from outrelay.lib.transport.waiting import Waiting

log = get_logger(__name__)

BACKLOG = 1024
"""Connections that wait: in the kernel to be accepted by us, verified for ``accept``."""

BURST = 64
"""Connections accepted before others get their turn."""

REST = 0.5
"""Seconds until the next try when the system has no room for another socket."""

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_AT_ONCE = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerLimits:
    """What strangers may use up, and how long peers may be silent.

    Args:
        handshake_timeout: Seconds until a stranger must be known.
        handshakes_max: Strangers at a time.
        source_handshakes: Strangers of one source at a time.
        source_rate: Strangers a second of one source, in the long run.
        source_burst: Strangers of one source at once.
        idle_timeout: Seconds without a sign of life that a connection survives.
    """

    handshake_timeout: float = 10.0
    handshakes_max: int = 1024
    source_handshakes: int = 64
    source_rate: float = 50.0
    source_burst: int = 200
    idle_timeout: float = 10.0


@dataclass(slots=True, eq=False)
class _Stranger:
    """Somebody whose handshake is under way."""

    address: Address
    source: str
    timer: asyncio.TimerHandle | None = None
    late: bool = False


class TcpListener:
    """Listener of the carrier port; make it with ``bind``."""

    def __init__(
        self,
        sock: socket.socket,
        context: TlsContext,
        roles: frozenset[Role],
        limits: ListenerLimits,
        on_refused: OnRefused | None,
    ) -> None:
        self._socket = sock
        self._context = context
        self._roles = roles
        self._limits = limits
        self._on_refused = on_refused
        self._loop = asyncio.get_running_loop()
        self._throttle = Throttle()
        self._budgets = Budgets(
            under_way=limits.source_handshakes,
            per_second=limits.source_rate,
            burst=limits.source_burst,
        )
        self._openings: dict[Opening, _Stranger] = {}
        self._unconfirmed: dict[TcpConnection, _Stranger] = {}
        self._connections = Connections()
        self._accepted = Waiting[TcpConnection]("connections of this listener", BACKLOG)
        self._rest: asyncio.TimerHandle | None = None
        self._closed = False
        self.address: Address = unmapped(sock.getsockname())
        self._loop.add_reader(sock, self._acceptable)

    @classmethod
    async def bind(
        cls,
        address: Address,
        *,
        credentials: Credentials,
        trust: Trust,
        accept_roles: Collection[Role] = frozenset({Role.AGENT, Role.RELAY}),
        on_refused: OnRefused | None = None,
        alpn: str = "orp/1",
        limits: ListenerLimits | None = None,
    ) -> TcpListener:
        """A listener on ``address``.

        Args:
            address: Numeric host and port; ``::`` is every address of both families.
            credentials: What we show.
            trust: Whom the peers' certificates must come from.
            accept_roles: Roles that may dial us.
            on_refused: Told of everybody turned away here.
            alpn: The one protocol spoken.
            limits: Replaces the usual ones.

        Raises:
            ConfigError: The address cannot be bound, or our certificate not be used.
        """
        context = TlsContext(credentials=credentials, trust=trust, server=True, alpn=alpn)
        with config_errors(address, "TCP"):
            sock = bind(address, socket.SOCK_STREAM, _reuse)
            sock.listen(BACKLOG)
        roles = frozenset(accept_roles)
        return cls(sock, context, roles, limits or ListenerLimits(), on_refused)

    def show(self, credentials: Credentials) -> None:
        """Show ``credentials`` from the next handshake on.

        Raises:
            IdentityError: They cannot be used.
        """
        self._context = self._context.showing(credentials)

    async def accept(self) -> TcpConnection:
        return await self._accepted.take()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._pause()
        self._socket.close()
        for opening, stranger in self._openings.items():
            opening.close()
            self._known(stranger)
        self._openings.clear()
        self._accepted.end(Closed(reason="the listener is closed"))
        await self._connections.close()

    # Accepting

    def _acceptable(self) -> None:
        for _ in range(BURST):
            if self._strangers >= self._limits.handshakes_max:
                self._pause()
                return
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._rest_a_while(error)
                    return
                continue  # who was about to come is gone
            self._meet(sock, unmapped(address))

    @property
    def _strangers(self) -> int:
        return len(self._openings) + len(self._unconfirmed)

    def _pause(self) -> None:
        """Accept nobody; ``_resume`` ends it."""
        self._loop.remove_reader(self._socket)
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _rest_a_while(self, error: OSError) -> None:
        self._throttle.write(
            log.error, "no more connections can be accepted now", reason=error.strerror
        )
        self._pause()
        self._rest = self._loop.call_later(REST, self._resume)

    def _resume(self) -> None:
        self._rest = None
        if not self._closed:
            self._loop.add_reader(self._socket, self._acceptable)

    def _meet(self, sock: socket.socket, address: Address) -> None:
        """Begin the handshake of somebody, within the budget of where it comes from."""
        source = source_of(address[0])
        if not self._budgets.take(source, self._loop.time()):
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            sock.close()
            self._refuse(Cause.SOURCE_LIMIT, address)
            return
        prepare(sock)
        opening = Opening(
            sock,
            self._context.layer(self._roles),
            limit=self._limits.handshake_timeout,
            on_over=self._opened,
        )
        self._openings[opening] = _Stranger(address, source)
        opening.begin()

    # Strangers

    def _opened(self, opening: Opening, failure: HandshakeFailed | None) -> None:
        """A handshake is over: the peer is verified, or gone."""
        stranger = self._openings.pop(opening)
        if failure is not None:
            self._known(stranger)
            self._refuse(failure.cause, stranger.address, failure.reason)
            return
        connection = TcpConnection(
            opening.sock,
            opening.tls,
            dialled=False,
            on_confirmed=self._confirmed,
            on_closed=self._gone,
            idle_timeout=self._limits.idle_timeout,
        )
        self._unconfirmed[connection] = stranger
        self._connections.add(connection)
        stranger.timer = self._loop.call_later(
            self._limits.handshake_timeout, self._too_late, connection, stranger
        )

    def _too_late(self, connection: TcpConnection, stranger: _Stranger) -> None:
        stranger.late = True
        connection.abort()

    def _confirmed(self, connection: TcpConnection) -> None:
        """The peer is who it should be, and takes us for who we are."""
        self._known(self._unconfirmed.pop(connection))
        if self._accepted.full:
            connection.close(ErrorCode.LIMIT, "too many connections wait")
        else:
            self._accepted.put(connection)

    def _gone(self, connection: TcpConnection, closed: Closed) -> None:
        """A connection's socket is closed."""
        self._connections.discard(connection)
        stranger = self._unconfirmed.pop(connection, None)
        if stranger is None:
            return
        self._known(stranger)
        if stranger.late:
            self._refuse(Cause.TIMEOUT, stranger.address, "the handshake was not over in time")
        elif closed.code is not ErrorCode.NONE:  # else it has merely found another way
            cause = Cause.PEER if closed.by_peer else Cause.HANDSHAKE
            self._refuse(cause, stranger.address, closed.reason)

    def _known(self, stranger: _Stranger) -> None:
        """Somebody is no stranger any more; there is room for another."""
        if stranger.timer is not None:
            stranger.timer.cancel()
        self._budgets.give_back(stranger.source)
        if self._rest is None:
            self._resume()

    def _refuse(self, cause: Cause, address: Address, reason: str = "") -> None:
        if self._on_refused is not None:
            self._on_refused(Refusal(cause, address, reason))


def _reuse(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

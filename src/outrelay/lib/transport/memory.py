"""A carrier inside one process, for tests of everything above the transport.

Words: the *network* is where listeners and dialers of one test meet. A connection has two
*ends*, each the other's ``peer_end``.

It keeps the carrier's promises as a real one does, so that code tested on it behaves the
same on QUIC:

- A direction holds a bounded number of bytes (pipe.py); then its writer waits.
- A stream exists for the peer from the first write, finish, reset or stop on it.
- The opener gets a stream's credit back when both its directions are over.
- A connection that ends takes what was not read with it.

It is deterministic: no thread, no clock, no randomness.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Iterator

from outrelay.lib.errors import Closed, ConfigError, ErrorCode, Refused
from outrelay.lib.identity.certs import Credentials
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.transport.carrier import READ_SIZE, Address
from outrelay.lib.transport.pipe import WINDOW, Arrivals, Pipe
from outrelay.lib.transport.refusal import Cause

MAX_STREAMS = 1_000
"""Streams each end of a connection may have open."""

BACKLOG = 128
"""Connections a listener holds before it refuses more."""

EXPIRES = 4_102_444_800.0
"""When identities end, unless said otherwise: 2100-01-01."""

ANY_PEER = frozenset({Role.AGENT, Role.RELAY})
"""Roles a listener accepts, unless said otherwise."""


class MemoryNetwork:
    """Where the listeners and dialers of one test find each other.

    Args:
        max_streams: Streams each end of a connection may have open.
    """

    def __init__(self, *, max_streams: int = MAX_STREAMS) -> None:
        self.max_streams = max_streams
        self._listeners: dict[Address, MemoryListener] = {}
        self._ports = itertools.count(49_152)

    def listen(
        self,
        address: Address,
        identity: Identity,
        *,
        accept_roles: Collection[Role] = ANY_PEER,
        dns_names: Collection[str] = ("localhost",),
        expires: float = EXPIRES,
    ) -> MemoryListener:
        """A listener at ``address``; port 0 chooses one.

        Args:
            address: Any host and port; they mean nothing outside this network.
            identity: Who dialers see.
            accept_roles: Roles a dialer may have.
            dns_names: Names a dialer may ask for.
            expires: When the listener's certificate would end, seconds since the epoch.

        Raises:
            ConfigError: Somebody listens there.
        """
        host, port = address
        address = (host, port or next(self._ports))
        if address in self._listeners:
            raise ConfigError(f"{address[0]}:{address[1]}", "address is in use")
        listener = MemoryListener(self, address, identity, accept_roles, dns_names, expires)
        self._listeners[address] = listener
        return listener

    def dialer(
        self, identity: Identity, *, host: str = "127.0.0.1", expires: float = EXPIRES
    ) -> MemoryDialer:
        """A dialer that listeners see as ``identity``, coming from ``host``."""
        return MemoryDialer(self, (host, next(self._ports)), identity, expires)

    def listener_at(self, address: Address) -> MemoryListener | None:
        """Who listens at ``address``, if anybody does."""
        return self._listeners.get(address)

    def forget(self, address: Address) -> None:
        """Free an address."""
        self._listeners.pop(address, None)


class MemoryListener:
    """Accepts connections; made by ``MemoryNetwork.listen``."""

    def __init__(
        self,
        network: MemoryNetwork,
        address: Address,
        identity: Identity,
        accept_roles: Collection[Role],
        dns_names: Collection[str],
        expires: float,
    ) -> None:
        self.address = address
        self.identity = identity
        self.accept_roles = accept_roles
        self.dns_names = dns_names
        self.expires = expires
        self._network = network
        self._backlog = Arrivals[MemoryConnection]()
        self._accepted: list[MemoryConnection] = []

    def show(self, credentials: Credentials) -> None:
        """See ``carrier.Listener``."""
        self.expires = credentials.expires

    async def accept(self) -> MemoryConnection:
        """See ``carrier.Listener``."""
        return await self._backlog.get()

    async def close(self) -> None:
        """See ``carrier.Listener``."""
        self._network.forget(self.address)
        self._backlog.end(Closed())
        for connection in self._accepted:
            connection.close()
        self._accepted.clear()

    def refuses(self, dialer: Identity, roles: Collection[Role], server_name: str) -> str:
        """Why the two sides refuse each other; empty when they do not."""
        if self.identity.role not in roles:
            return f"{self.identity} has the role {self.identity.role}"
        if server_name and server_name not in self.dns_names:
            return f"its certificate is not for {server_name}"
        if dialer.role not in self.accept_roles:
            return f"refused by the peer: {dialer} has the role {dialer.role}"
        return ""

    def arrive(self, connection: MemoryConnection) -> bool:
        """Take a new connection's end; False when the backlog is full."""
        if len(self._backlog) >= BACKLOG:
            return False
        self._accepted = [one for one in self._accepted if not one.ended]
        self._accepted.append(connection)
        self._backlog.put(connection)
        return True


class MemoryDialer:
    """Makes connections; made by ``MemoryNetwork.dialer``."""

    def __init__(
        self, network: MemoryNetwork, address: Address, identity: Identity, expires: float
    ) -> None:
        self.address = address
        self.identity = identity
        self.expires = expires
        self._network = network

    async def dial(
        self,
        address: Address,
        *,
        roles: Collection[Role],
        server_name: str = "localhost",
    ) -> MemoryConnection:
        """See ``carrier.Dialer``."""
        await asyncio.sleep(0)  # no carrier connects without giving way once
        peer = f"{address[0]}:{address[1]}"
        listener = self._network.listener_at(address)
        if listener is None:
            raise Refused(peer, "nobody answered", cause=Cause.UNREACHABLE)
        if reason := listener.refuses(self.identity, roles, server_name):
            raise Refused(peer, reason, final=True, cause=Cause.PEER)
        ours, theirs = self._pair(listener)
        if not listener.arrive(theirs):
            raise Refused(peer, "too many connections wait to be accepted")
        return ours

    def _pair(self, listener: MemoryListener) -> tuple[MemoryConnection, MemoryConnection]:
        """Both ends of a connection: ours, the listener's."""
        limit = self._network.max_streams
        ours = MemoryConnection(
            listener.identity, listener.expires, self.address, listener.address, 0, limit
        )
        theirs = MemoryConnection(
            self.identity, self.expires, listener.address, self.address, 1, limit
        )
        ours.peer_end, theirs.peer_end = theirs, ours
        return ours, theirs


class MemoryConnection:
    """One end of a connection; made by ``MemoryDialer.dial``."""

    carrier = "memory"
    tells_codes = True
    peer_end: MemoryConnection

    def __init__(
        self,
        peer: Identity,
        peer_expires: float,
        local_address: Address,
        peer_address: Address,
        first_id: int,
        max_streams: int,
    ) -> None:
        self.peer = peer
        self.peer_expires = peer_expires
        self.local_address = local_address
        self.peer_address = peer_address
        self._ids: Iterator[int] = itertools.count(first_id, 4)  # numbered as QUIC does
        self._credit = asyncio.Semaphore(max_streams)
        self._arrivals = Arrivals[MemoryStream]()
        self._streams: dict[int, MemoryStream] = {}
        self._closed: Closed | None = None
        self._ended = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether the connection is gone."""
        return self._closed is not None

    async def open_stream(self) -> MemoryStream:
        """See ``carrier.Connection``."""
        await self._credit.acquire()
        if self._closed:
            self._credit.release()  # whoever waits next learns it too
            raise self._closed.with_traceback(None)
        return self._open(next(self._ids))

    async def accept_stream(self) -> MemoryStream:
        """See ``carrier.Connection``."""
        return await self._arrivals.get()

    def close(self, code: ErrorCode = ErrorCode.NONE, reason: str = "") -> None:
        """See ``carrier.Connection``."""
        self.end(Closed(code, reason))
        self.peer_end.end(Closed(code, reason, by_peer=True))

    def sever(self) -> None:
        """Lose the path: both ends find it dead, neither closed it."""
        self.end(Closed(reason="path lost", lost=True))
        self.peer_end.end(Closed(reason="path lost", lost=True))

    async def wait_closed(self) -> Closed:
        """See ``carrier.Connection``."""
        await self._ended.wait()
        assert self._closed
        return self._closed

    def arrive(self, stream: MemoryStream) -> None:
        """The peer opened a stream."""
        if not self._closed:
            self._streams[stream.id] = stream
            self._arrivals.put(stream)

    def drop(self, stream_id: int) -> bool:
        """A stream is over; False when it was before."""
        return self._streams.pop(stream_id, None) is not None

    def end(self, closed: Closed) -> None:
        """The connection is gone for this end."""
        if self._closed:
            return
        self._closed = closed
        self._ended.set()
        self._arrivals.end(closed)
        self._credit.release()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.lose(closed)

    def _open(self, stream_id: int) -> MemoryStream:
        def over() -> None:
            if self.ended or self.peer_end.ended:
                return  # each end tells its own streams that the connection is gone
            if up.over and down.over and self.drop(stream_id):
                self.peer_end.drop(stream_id)
                self._credit.release()

        up, down = Pipe(over), Pipe(over)
        theirs = MemoryStream(stream_id, incoming=up, outgoing=down)
        ours = MemoryStream(
            stream_id, incoming=down, outgoing=up, announce=lambda: self.peer_end.arrive(theirs)
        )
        self._streams[stream_id] = ours
        return ours


class MemoryStream:
    """One end of a stream; made by ``MemoryConnection.open_stream``."""

    def __init__(
        self,
        stream_id: int,
        *,
        incoming: Pipe,
        outgoing: Pipe,
        announce: Callable[[], None] | None = None,
    ) -> None:
        self.id = stream_id
        self._incoming = incoming
        self._outgoing = outgoing
        self._announce = announce

    @property
    def unsent(self) -> int:
        """See ``carrier.Stream``."""
        return self._outgoing.unsent

    @property
    def window(self) -> int:
        """See ``carrier.Stream``."""
        return WINDOW

    async def read(self, limit: int = READ_SIZE) -> bytes:
        """See ``carrier.Stream``."""
        return await self._incoming.read(limit)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """See ``carrier.Stream``."""
        self._show()
        await self._outgoing.write(data)

    def finish(self) -> None:
        """See ``carrier.Stream``."""
        self._show()
        self._outgoing.finish()

    def reset(self, code: ErrorCode) -> None:
        """See ``carrier.Stream``."""
        self._show()
        self._outgoing.abandon(code)

    def stop(self, code: ErrorCode) -> None:
        """See ``carrier.Stream``."""
        self._show()
        self._incoming.refuse(code)

    def explain(self, code: ErrorCode) -> None:
        """Nothing: an end has its code."""

    async def wait_finished(self) -> None:
        """See ``carrier.Stream``."""
        await self._outgoing.wait_finished()

    def lose(self, closed: Closed) -> None:
        """The connection is gone for this end."""
        self._incoming.lose_reader(closed)
        self._outgoing.lose_writer(closed)

    def _show(self) -> None:
        """Let the peer know of the stream, once."""
        if self._announce:
            announce, self._announce = self._announce, None
            announce()

"""The QUIC carrier's shell: one UDP socket that listens and dials.

It reads datagrams in batches, feeds the engine, lets the tasks the engine's events woke run,
and then sends once per connection: acknowledgements, credit and data leave together. It is
the only place of the carrier with a socket, a clock and timers.

Words: a *flush* asks the engine for packets and sends them; a *tick* once a second keeps
dialled connections alive and ends those whose peer's certificate has ended. Whom we have dialled
is in *doubt* when ICMP says that nobody takes our datagrams: anybody can forge that, so it is
asked, and given up when it does not answer.

The engine is told the time by ``time.monotonic``, by which loops set their timers, too: uvloop's
own clock counts whole milliseconds, and round trips and pacing are often shorter.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection

from outrelay.lib.errors import Closed, ErrorCode, Refused
from outrelay.lib.identity.certs import Credentials, Trust
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.quic.connection import QuicConnection
from outrelay.lib.transport.quic.engine import (
    Engine,
    EngineOptions,
    Event,
    EventKind,
    Transmit,
)
from outrelay.lib.transport.quic.engines import EngineChoice, make_engine
from outrelay.lib.transport.quic.udp import UdpSocket
from outrelay.lib.transport.refusal import Cause, OnRefused, Refusal
from outrelay.lib.transport.sockets import config_errors
from outrelay.lib.transport.waiting import Waiting

RECEIVE_BUDGET = 192 * 1024
"""Bytes taken from the socket before the tasks they woke get their turn."""

BACKLOG = 1024
"""Verified connections that may wait for ``accept``."""

TICK = 1.0
PING_IDLE = 3
"""Ticks between keep-alives of a dialled connection without streams; with some: every one."""


DOUBT = 0.4
"""Seconds that whoever is in doubt has to answer."""


class QuicEndpoint:
    """Listener and Dialer of the carrier port on one socket; make it with ``bind``."""

    def __init__(self, sock: UdpSocket, engine: Engine, on_refused: OnRefused | None) -> None:
        self._socket = sock
        self._engine = engine
        self._on_refused = on_refused
        self._loop = asyncio.get_running_loop()
        self._connections: dict[int, QuicConnection] = {}
        self._dials: dict[int, asyncio.Future[QuicConnection]] = {}
        self._dialled: set[int] = set()
        self._accepted = Waiting[QuicConnection]("connections of this listener", BACKLOG)
        self._outgoing: deque[Transmit] = deque()
        self._flush_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._ticks = 0
        self._ticker: asyncio.TimerHandle | None = None
        self._doubts: dict[Address, asyncio.TimerHandle] = {}
        self._closed = False
        if engine.uses_ecn:
            sock.watch_ecn()
        self._loop.add_reader(sock.fileno(), self._readable)

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
        engine: EngineChoice = EngineChoice.AUTO,
        options: EngineOptions | None = None,
    ) -> QuicEndpoint:
        """An endpoint on ``address``.

        Args:
            address: Numeric host and port; ``::`` is every address of both families.
            credentials: What we show, dialling and listening.
            trust: Whom the peers' certificates must come from.
            accept_roles: Roles that may dial us; empty: a dialler only.
            on_refused: Told of everybody turned away here.
            alpn: The one protocol spoken.
            engine: Which packet engine it runs on.
            options: Replaces what says the same above, for tests of limits.

        Raises:
            ConfigError: The address cannot be bound, or the engine cannot be had.
        """
        options = options or EngineOptions(
            credentials=credentials,
            trust=trust,
            accept_roles=frozenset(accept_roles),
            alpn=alpn,
        )
        made = make_engine(options, engine)
        with config_errors(address, "UDP"):
            sock = UdpSocket(address)
        return cls(sock, made, on_refused)

    @property
    def engine(self) -> str:
        """The name of the packet engine it runs on."""
        return self._engine.name

    @property
    def address(self) -> Address:
        return self._socket.address

    def show(self, credentials: Credentials) -> None:
        """Show ``credentials`` from the next handshake on."""
        self._engine.show(credentials)

    # Listener and Dialer

    async def accept(self) -> QuicConnection:
        return await self._accepted.take()

    async def dial(
        self, address: Address, *, roles: Collection[Role], server_name: str = "localhost"
    ) -> QuicConnection:
        if self._closed:
            raise Refused(f"{address[0]}:{address[1]}", "the endpoint is closed")
        self._socket.watch_refusals()
        number = self._engine.connect(
            address, roles=roles, server_name=server_name, now=time.monotonic()
        )
        answer: asyncio.Future[QuicConnection] = self._loop.create_future()
        self._dials[number] = answer
        self._dialled.add(number)
        self._flush_soon()
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                answer.result().close()
            else:
                self._engine.close(number, ErrorCode.NONE, "")
            self._flush_soon()
            raise
        finally:
            self._dials.pop(number, None)

    async def close(self) -> None:
        if self._closed:
            return
        for connection in list(self._connections.values()):
            connection.close()
        for answer in self._dials.values():
            if not answer.done():
                answer.set_exception(Refused("dial", "the endpoint is closed"))
        self._flush()
        self._dispatch()  # also when the socket takes nothing: somebody waits for the end
        self._closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        for handle in (self._flush_handle, self._timer, self._ticker, *self._doubts.values()):
            if handle is not None:
                handle.cancel()
        self._socket.close()
        self._accepted.end(Closed(reason="the listener is closed"))

    # Datagrams

    def _readable(self) -> None:
        now = time.monotonic()
        for data, segment_size, sender, ecn in self._socket.receive(RECEIVE_BUDGET):
            if self._doubts and sender in self._doubts:
                self._doubts.pop(sender).cancel()
            self._engine.receive(data, segment_size, sender, now, ecn)
        if self._socket.has_errors:
            for address in self._socket.refusals():
                self._unheard(address)
            # libuv polls no further after an error
            self._loop.remove_reader(self._socket.fileno())
            self._loop.add_reader(self._socket.fileno(), self._readable)
        self._dispatch()
        self._flush_soon()

    def _unheard(self, address: Address) -> None:
        """Nobody takes our datagrams there, it is said."""
        for number, answer in self._dials.items():
            if not answer.done() and self._engine.address(number) == address:
                host, port = address
                peer, cause = f"{host}:{port}", Cause.UNREACHABLE
                answer.set_exception(Refused(peer, "nobody listens there", cause=cause))
                self._engine.close(number, ErrorCode.NONE, "")
        dialled = self._dialled_at(address)
        if dialled and address not in self._doubts:
            self._doubts[address] = self._loop.call_later(DOUBT, self._give_up, address)
            for connection in dialled:
                self._engine.ping(connection.number)

    def _give_up(self, address: Address) -> None:
        del self._doubts[address]
        for connection in self._dialled_at(address):
            connection.give_up("nobody listens there any more")

    def _dialled_at(self, address: Address) -> list[QuicConnection]:
        return [
            each
            for each in self._connections.values()
            if each.number in self._dialled and each.peer_address == address
        ]

    def _flush_soon(self) -> None:
        if self._flush_handle is None and not self._closed:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send one burst per connection; come back for more after everybody's turn."""
        self._flush_handle = None
        if self._closed:
            return
        if not self._outgoing:
            self._outgoing.extend(self._engine.transmits(time.monotonic()))
        more = bool(self._outgoing)
        while self._outgoing:
            if not self._socket.send(self._outgoing[0]):
                self._loop.add_writer(self._socket.fileno(), self._writable)
                return
            self._outgoing.popleft()
        self._dispatch()
        if more:
            self._flush_soon()
        else:
            self._arm()

    def _writable(self) -> None:
        self._loop.remove_writer(self._socket.fileno())
        self._flush_soon()

    # Time

    def _arm(self) -> None:
        deadline = self._engine.next_deadline()
        if deadline is None:
            return
        if self._timer is None or deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._timeout)
            self._timer_at = deadline  # uvloop's handles of what is due now do not know

    def _timeout(self) -> None:
        self._timer = None
        self._engine.handle_timeout(time.monotonic())
        self._dispatch()
        self._flush_soon()

    def _tick(self) -> None:
        self._ticks += 1
        wall = time.time()
        for number, connection in list(self._connections.items()):
            if wall >= connection.peer_expires:
                connection.close(ErrorCode.DENIED, "the peer's certificate has expired")
            elif number in self._dialled and (
                connection.has_streams or self._ticks % PING_IDLE == 0
            ):
                self._engine.ping(number)
        self._flush_soon()
        self._ticker = self._loop.call_later(TICK, self._tick) if self._connections else None

    # Events

    def _dispatch(self) -> None:
        for event in self._engine.events():
            match event.kind:
                case EventKind.CONNECTED:
                    self._connected(event)
                case EventKind.REFUSED:
                    self._refused(event)
                case EventKind.DRAINED:
                    pass
                case _:
                    connection = self._connections.get(event.connection)
                    if connection is not None:
                        connection.dispatch(event)
                    if event.kind is EventKind.LOST:
                        self._connections.pop(event.connection, None)
                        self._dialled.discard(event.connection)
        for refusal in self._engine.refusals():
            self._tell(refusal)

    def _connected(self, event: Event) -> None:
        assert event.peer is not None
        connection = QuicConnection(
            self._engine, event.connection, event.peer, self.address, self._flush_soon
        )
        self._connections[event.connection] = connection
        if self._ticker is None:
            self._ticker = self._loop.call_later(TICK, self._tick)
        answer = self._dials.get(event.connection)
        if answer is not None and not answer.done():
            answer.set_result(connection)
        elif event.connection in self._dialled:
            connection.close()  # whoever dialled has gone
        elif self._accepted.full:
            connection.close(ErrorCode.LIMIT, "too many connections wait")
        else:
            self._accepted.put(connection)

    def _refused(self, event: Event) -> None:
        assert event.address is not None
        answer = self._dials.get(event.connection)
        if answer is not None and not answer.done():
            host, port = event.address
            refused = Refused(f"{host}:{port}", event.reason, final=event.final, cause=event.cause)
            answer.set_exception(refused)
        elif event.connection not in self._dialled:
            self._tell(Refusal(event.cause, event.address, event.reason))
        self._dialled.discard(event.connection)

    def _tell(self, refusal: Refusal) -> None:
        if self._on_refused is not None:
            self._on_refused(refusal)

"""The edge: accepts connections and serves each one from its handshake to its end.

A connection is served by a task group of its own: the loop that takes its streams, its
control loop, its outbox, one task for each stream. A fault in any of them, also a bug of
ours, ends that connection and no other.

Source: protocol.md section 4.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import TaskGroup
from collections.abc import Iterator
from contextlib import contextmanager

from outrelay.lib.errors import Closed, ErrorCode, RemoteProtocolError, Reset
from outrelay.lib.identity.uri import Role
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.metrics import CarrierMetrics
from outrelay.lib.observe.throttle import Throttle
from outrelay.lib.orp.frame import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.tasks import isolate, spawn
from outrelay.lib.transport.carrier import Connection, Listener
from outrelay.lib.transport.frames import FrameReader
from outrelay.lib.values import address_text
from outrelay.relay.clock import unix_ms
from outrelay.relay.directory import Directory
from outrelay.relay.doors import Doors
from outrelay.relay.edge.control import ControlLoop
from outrelay.relay.edge.open import Opener
from outrelay.relay.edge.session import GOAWAY, Roster, Session
from outrelay.relay.limits import Limits

log = get_logger(__name__)

DRAINING = "this relay is shutting down"

MOST_ALTERNATES = 16
"""Other relays that GOAWAY names."""


class Edge:
    """Serves agents.

    Args:
        roster: Sessions join and leave it.
        directory: Told when a session has left.
        control: Serves control streams.
        opener: Serves data streams.
        metrics: Counts connections.
        limits: Of this relay.
        tenant: Whose agents it serves; empty: everybody's.
    """

    def __init__(
        self,
        *,
        roster: Roster,
        directory: Directory,
        control: ControlLoop,
        opener: Opener,
        metrics: CarrierMetrics,
        limits: Limits,
        tenant: str = "",
    ) -> None:
        self._roster = roster
        self._directory = directory
        self._control = control
        self._opener = opener
        self._metrics = metrics
        self._limits = limits
        self._tenant = tenant
        self._throttle = Throttle()
        self._connections: set[Connection] = set()
        self._draining = False
        self._left = asyncio.Event()
        self._doors: Doors | None = None

    async def run(self, doors: Doors) -> None:
        """Serve whoever comes in, until the doors are closed and all connections are gone."""
        self._doors = doors
        async with TaskGroup() as group:
            for carrier, listener in doors.listeners.items():
                spawn(group, self._accept(listener, group), name=f"relay: accept over {carrier}")

    async def _accept(self, listener: Listener, group: TaskGroup) -> None:
        while True:
            try:
                connection = await listener.accept()
            except Closed:
                return
            name = f"relay: connection of {connection.peer}"
            isolate(group, self._serve(connection), name=name)

    def drain(self, seconds: float) -> None:
        """Turn new connections away from now on; the present ones are asked to go elsewhere.

        Args:
            seconds: How long they may go on.
        """
        self._draining = True
        self._opener.drain()
        for session in self._asked_to_go():
            goaway = orp.Goaway(reason=DRAINING, drain_ms=round(seconds * 1000))
            goaway.alternate_endpoints.extend(self._others(session.tenant))
            session.send(FrameType.GOAWAY, goaway)

    async def wait_left(self) -> None:
        """Return when everybody who was asked to go elsewhere has gone."""
        while next(self._asked_to_go(), None):
            self._left.clear()
            await self._left.wait()

    def _asked_to_go(self) -> Iterator[Session]:
        return (session for session in self._roster if GOAWAY in session.features)

    def _others(self, tenant: str) -> list[str]:
        """Where other relays are, as far as the registry tells."""
        ours = self._doors.endpoint if self._doors else ""
        return sorted(self._directory.endpoints_of(tenant) - {ours})[:MOST_ALTERNATES]

    def close(self, code: ErrorCode, reason: str) -> None:
        """Close all connections."""
        for connection in list(self._connections):
            connection.close(code, reason)

    async def _serve(self, connection: Connection) -> None:
        with self._counted(connection):
            try:
                async with asyncio.timeout(max(0, connection.peer_expires - time.time())):
                    await self._attend(connection)
            except TimeoutError:
                connection.close(ErrorCode.DENIED, "the certificate has ended")
                log.info("certificate has ended", peer=connection.peer)
            finally:
                connection.close(ErrorCode.INTERNAL)  # has an effect only after a bug

    @contextmanager
    def _counted(self, connection: Connection) -> Iterator[None]:
        gauge = self._metrics.connections.labels(connection.peer.role, connection.carrier)
        gauge.inc()
        self._connections.add(connection)
        try:
            yield
        finally:
            self._connections.discard(connection)
            gauge.dec()

    async def _attend(self, connection: Connection) -> None:
        try:
            session = await self._greet(connection)
        except RemoteProtocolError as error:
            self._turn_out(connection, error, "connection refused")
        except Closed as closed:
            self._throttle.write(
                log.info,
                "connection ended before HELLO",
                cause=connection.peer,
                peer=connection.peer,
                reason=closed,
            )
        else:
            with self._attached(session):
                await self._attend_session(session)

    def _turn_out(self, connection: Connection, error: RemoteProtocolError, event: str) -> None:
        """Close the connection of a peer that broke the rules, or may not be served."""
        connection.close(error.code, error.reason)
        self._metrics.connections_refused.labels(error.code.name.lower()).inc()
        self._throttle.write(
            log.warning,
            event,
            cause=(connection.peer, error.code),
            peer=connection.peer,
            address=address_text(connection.peer_address),
            reason=error.reason,
        )

    # ---- HELLO ---------------------------------------------------------------------------

    async def _greet(self, connection: Connection) -> Session:
        """Take HELLO, answer it, and put the session on the roster.

        Raises:
            RemoteProtocolError: The peer may not be served; the connection has to be closed.
            Closed: The connection is gone.
        """
        self._check_open()
        if connection.peer.role is not Role.AGENT:
            raise RemoteProtocolError(f"this relay serves agents, not a {connection.peer.role}")
        if self._tenant not in ("", connection.peer.realm):
            raise RemoteProtocolError("this relay serves another tenant", ErrorCode.DENIED)
        session = await self._read_hello(connection)
        self._check_open()
        if replaced := self._roster.join(session):
            session.services.update(replaced.services)  # the same process: it still offers them
            replaced.services.clear()
            replaced.connection.close(ErrorCode.REPLACED, "the agent has connected anew")
        ack = orp.HelloAck(
            session_id=session.id,
            server_time_unix_ms=unix_ms(),
            accepted_features=sorted(session.features),
        )
        if self._doors is not None and not session.plain:
            ack.relay_endpoints.append(self._doors.endpoint)
            if self._doors.tcp_endpoint:
                ack.tcp_endpoints.append(self._doors.tcp_endpoint)
        session.send(FrameType.HELLO_ACK, ack)
        return session

    def _check_open(self) -> None:
        if self._draining:
            raise RemoteProtocolError(DRAINING, ErrorCode.DRAIN)

    async def _read_hello(self, connection: Connection) -> Session:
        limit = self._limits.hello_timeout
        try:
            async with asyncio.timeout(limit):
                control = await connection.accept_stream()
                frames = FrameReader(control, self._limits.frame_bytes)
                hello = await frames.expect(FrameType.HELLO, orp.Hello)
        except TimeoutError:
            raise RemoteProtocolError(f"no HELLO came within {limit:g} s") from None
        except Reset as error:
            raise RemoteProtocolError(f"no HELLO came: {error}") from error
        if hello.agent_uri != connection.peer.uri:
            raise RemoteProtocolError(
                f"HELLO says {hello.agent_uri[:200]!r}, the certificate {connection.peer}",
                ErrorCode.DENIED,
            )
        return Session(connection, control, frames, hello, self._limits)

    # ---- a session -----------------------------------------------------------------------

    @contextmanager
    def _attached(self, session: Session) -> Iterator[None]:
        """Take ``session``, which has joined the roster, off it after the body."""
        log.info(
            "agent connected",
            agent=session.uri,
            session=session.id,
            address=address_text(session.connection.peer_address),
            carrier=session.connection.carrier,
        )
        try:
            yield
        finally:
            self._roster.leave(session)
            self._directory.left(session)
            self._left.set()

    async def _attend_session(self, session: Session) -> None:
        """Serve ``session`` until its connection is gone."""
        reason: object = "cancelled"
        try:
            async with TaskGroup() as group:
                spawn(group, self._write_control(session), name="relay: control stream, outbox")
                spawn(group, self._read_control(session), name="relay: control stream")
                while True:
                    stream = await session.connection.accept_stream()
                    isolate(group, self._opener.serve(session, stream), name="relay: stream")
        except* Closed as closed:
            reason = closed.exceptions[0]
        finally:
            log.info("agent gone", agent=session.uri, session=session.id, reason=reason)

    async def _write_control(self, session: Session) -> None:
        try:
            await session.outbox.run()
        except Reset as error:
            session.connection.close(error.code, "the control stream is no longer read")

    async def _read_control(self, session: Session) -> None:
        """Serve the control stream; its end is the connection's."""
        try:
            await self._control.run(session)
        except RemoteProtocolError as error:
            self._turn_out(session.connection, error, "protocol error")
        except Reset as error:
            session.connection.close(error.code, "the control stream was reset")
        else:
            session.connection.close(ErrorCode.NONE, "the control stream has ended")

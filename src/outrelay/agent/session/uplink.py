"""Keeps one session up: races the relays, says HELLO, registers, and does it again.

Over tcp it goes on trying quic beside the session, and when that gets through new streams
go there, and with them those that outlive their connection; the others go on where they are:
HELLO of the new one names another instance, so the relay does not take it for the old one. The
same is done for a new certificate: a second connection shows it, to the same relay, where the far
agents are.

Invariants: at most one session takes new streams. Relays that do not answer are tried for
ever; a refusal that trying again cannot change ends the agent, but only before its first
session: later it may be the relay that is being repaired.

Source: protocol.md sections 1, 4 and 6.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import TaskGroup
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Never

from outrelay.agent import hints
from outrelay.agent.options import AgentOptions
from outrelay.agent.session import climb
from outrelay.agent.session.dialling import Dialling, Link
from outrelay.agent.session.greeting import hello_of
from outrelay.agent.session.proof import Proof
from outrelay.agent.session.registration import register_all
from outrelay.agent.session.session import Session
from outrelay.lib.errors import (
    Closed,
    ErrorCode,
    Refused,
    RejectCode,
    StreamRejected,
    TransportError,
)
from outrelay.lib.identity.uri import Identity
from outrelay.lib.observe import logs
from outrelay.lib.observe.metrics import UplinkMetrics
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.tasks import beside, spawn
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.transport.dial import Backoff
from outrelay.lib.transport.refusal import Cause
from outrelay.lib.transport.ways import Endpoint, Ways
from outrelay.lib.values import address_text

log = logs.get_logger(__name__)

RETRY_BUSY = 5.0
RETRY_IDLE = 30.0
"""The longest wait between tries, seconds: with streams alive, and without."""

STEADY = 2.0
"""Seconds a session must have lasted for the next try to be an immediate one."""

DEREGISTER_MOST = 1.0
"""Seconds the relay has to take our DEREGISTER frames."""

PLAIN_FORGETS = 12.0
"""Seconds within which a plain relay drops a new registration for the lost connection's sake."""

PLAIN_SETTLES = 1.0
"""Seconds until it has done so for the sake of one that we have closed."""


class Up(NamedTuple):
    """A link on which HELLO was answered."""

    link: Link
    session: Session


@dataclass(frozen=True, slots=True)
class LostPlain:
    """A connection to a plain relay that was lost while it had our services.

    Args:
        relay: Which one.
        forgets_at: When it has noticed at the latest, and dropped them; the loop's clock.
    """

    relay: Identity
    forgets_at: float


class Uplink:
    """The session that is up now, and the one after it.

    Args:
        options: Relays, services and limits.
        identity: Ours.
        proof: Our certificate, and whether it was renewed.
        ways: Connect to relays.
        take: Gets every stream a relay opens.
        called: Told of streams that a far agent waits for.
        is_busy: Whether streams are alive.
        metrics: Counts connections.
    """

    def __init__(
        self,
        options: AgentOptions,
        *,
        identity: Identity,
        proof: Proof,
        ways: Ways,
        take: Callable[[Session, Stream], None],
        called: Callable[[Session, int], None],
        is_busy: Callable[[], bool],
        metrics: UplinkMetrics,
    ) -> None:
        self._options = options
        self._identity = identity
        self._proof = proof
        self._hello = hello_of(identity)
        self._dialling = Dialling(options, ways, proof, self._count)
        self.take = take
        self.called = called
        self._is_busy = is_busy
        self._metrics = metrics
        self._backoff = Backoff(immediate=True)
        self._session: Session | None = None
        self.fault = ""
        """Why the last try to connect failed, or the last connection ended."""
        self._up = asyncio.Event()  # there is a session
        self._stays = asyncio.Event()  # and its relay does not leave
        self._was_up = False
        self._was_ready = False
        self._running: set[Session] = set()
        self._better: Up | None = None
        self._lost_plain: LostPlain | None = None
        self._forgotten = asyncio.Event()
        self._offers = options.expose
        self._leaving: Session | None = None

    async def run(self) -> Never:
        """Keep a session up, for ever; cancelled, it closes the connection.

        Raises:
            Refused: No relay will ever have us, or another process took our place.
        """
        async with TaskGroup() as group:
            while True:
                up = self._better or await self._connect()
                self._better = None
                spawn(group, self._run(up.session), name="agent: session")
                await self._use(up)

    async def _run(self, session: Session) -> None:
        connection = session.connection
        connected = self._metrics.connections.labels(connection.peer.role, connection.carrier)
        self._running.add(session)
        try:
            with connected.track_inprogress():
                await session.run()
        finally:
            self._running.discard(session)

    @property
    def current(self) -> Session | None:
        """The session that takes new streams now, if there is one."""
        return self._session

    @property
    def sessions(self) -> list[Session]:
        """All that are up, the newest last."""
        return sorted(self._running, key=lambda each: each.since_ms)

    async def session(self, *, lasting: bool = False) -> Session:
        """The session that is up, as soon as one is.

        Args:
            lasting: Not one whose relay leaves.

        Raises:
            StreamRejected: None is up within the limit.
        """
        limit = self._options.limits.session
        try:
            async with asyncio.timeout(limit):
                return await (self.lasting_session() if lasting else self.next_session())
        except TimeoutError:
            reason = f"no relay is connected, waited {limit:g} s"
            raise StreamRejected(RejectCode.UNREACHABLE, reason) from None

    async def next_session(self) -> Session:
        """The session that is up, however long that takes."""
        while self._session is None:
            await self._up.wait()
        return self._session

    async def lasting_session(self) -> Session:
        """The same, but none whose relay leaves."""
        while self._session is None or self._session.is_leaving:
            await self._stays.wait()
            await asyncio.sleep(0)  # whoever has noticed that it leaves has its turn
        return self._session

    def look_elsewhere(self, session: Session) -> None:
        """The far agent was not met at the relay of ``session``: go to another one, if any."""
        if self._session is session and self._dialling.has_choice:
            log.info("the far agent is not at this relay", relay=session.connection.peer)
            session.leave()

    async def deregister(self) -> None:
        """Offer nothing any longer, and tell the relays."""
        offered, self._offers = self._offers, ()
        try:
            async with asyncio.timeout(DEREGISTER_MOST):
                for session in list(self._running):
                    for each in offered:
                        await session.deregister(each.service)
        except (TransportError, TimeoutError) as error:
            log.warning("services not deregistered", error=str(error) or "the relay is slow")

    async def _connect(self) -> Up:
        """A session with whichever relay answers first."""
        while True:
            most = RETRY_BUSY if self._is_busy() else RETRY_IDLE
            await asyncio.sleep(self._backoff.delay(most))
            hint = hints.FOR_RELAY
            try:
                link = await self._dialling.any_relay()
                hint = hints.FOR_HELLO
                self._dialling.avoided = link.endpoint  # until it has answered HELLO
                return await self._start(link, self._hello)
            except Refused as refused:
                self._metrics.failed.inc()
                self.fault = str(refused)
                self._dialling.has_failed(is_busy=self._is_busy())
                self._judge(refused, hint)

    async def _start(self, link: Link, hello: orp.Hello) -> Up:
        """Say HELLO over ``link``."""
        try:
            session = await Session.start(link.connection, hello, self._options.limits, self)
        except Refused as refused:
            self._count(link.endpoint, refused)
            raise
        self._dialling.has_worked(link, session.endpoints)
        self._was_up = True
        self._metrics.connected.inc()
        return Up(link, session)

    def _count(self, endpoint: Endpoint, refused: Refused) -> None:
        """An endpoint would not have us, or was not reached."""
        cause = refused.cause or Cause.HANDSHAKE
        self._metrics.refused.labels(endpoint.carrier, cause).inc()

    def _judge(self, refused: Refused, hint: str) -> None:
        """Go on after a refusal, unless it is for good; ``hint`` says what to do about it."""
        if time.time() >= self._proof.expires:
            hint = hints.FOR_EXPIRED
        if not refused.final:
            log.warning("no relay connected", error=str(refused))
        elif self._was_up:
            log.error("refused by the relay", error=str(refused), hint=hint)
        else:
            reason = f"{refused.reason}; {hint}"
            raise Refused(refused.peer, reason, final=True, cause=refused.cause) from refused

    async def _use(self, up: Up) -> None:
        """Let new streams use a session until it is over, or there is a better one."""
        link, session = up
        loop = asyncio.get_running_loop()
        since = loop.time()
        where = address_text(link.connection.peer_address)
        carrier = link.connection.carrier
        log.info("connected", relay=link.connection.peer, address=where, carrier=carrier)
        self._session = session
        self._up.set()
        self._stays.set()
        self._leave_behind()
        try:
            async with asyncio.timeout_at(self._renewal(link, session)):
                closed = await self._until_over(up)
        except TimeoutError:
            log.info("connecting again, a plain relay may have dropped our registration")
            link.close()
            closed = None
        if loop.time() - since >= STEADY:
            self._backoff.reset()
        if closed:
            self._lost(link, session, closed)
        elif self._session is session:  # until another one is up
            self._leaving = session
            self._stays.clear()
            self._dialling.has_left(link, session.alternates)

    def _leave_behind(self) -> None:
        """Another session is up: move what can move from the one that leaves."""
        leaving, self._leaving = self._leaving, None
        if leaving:
            leaving.retire()
            leaving.move()

    async def _until_over(self, up: Up) -> Closed | None:
        """How the session ended; None when another one takes new streams from now on."""
        async with beside(self._renew(up), name="agent: look for a new certificate"):
            if not self._dialling.can_climb(up.link):
                return await up.session.until_leaving()
            async with beside(self._climb(up.session), name="agent: look for quic"):
                return await up.session.until_leaving()

    async def _renew(self, up: Up) -> None:
        """Take new streams away from a session, once there is one with a newer certificate."""
        await up.link.superseded.wait()
        hello, backoff = hello_of(self._identity), Backoff(immediate=True)
        while True:
            await asyncio.sleep(backoff.delay(RETRY_IDLE))
            try:
                better = await self._start(await self._dialling.again(up.link), hello)
            except Refused as refused:
                log.warning("not connected with the new certificate", error=str(refused))
            else:
                log.info("connected with the new certificate, streams move to it")
                return self._replace(up.session, better, hello)

    async def _climb(self, session: Session) -> None:
        """Take new streams away from ``session``, once quic gets through."""
        hello = hello_of(self._identity)

        async def attempt() -> Up:
            return await self._start(await self._dialling.over_quic(), hello)

        better = await climb.reach(attempt)
        log.info("quic gets through, new streams take it", endpoint=better.link.endpoint)
        self._replace(session, better, hello)

    def _replace(self, session: Session, better: Up, hello: orp.Hello) -> None:
        """Have ``better`` take the new streams of ``session``, and what can move of the others."""
        if self._better:  # somebody was faster
            better.link.close()
            return
        self._better, self._hello, self._leaving = better, hello, session
        session.retire()

    def _lost(self, link: Link, session: Session, closed: Closed) -> None:
        """Judge a connection that was closed or lost."""
        if closed.by_peer and closed.code is ErrorCode.REPLACED:
            raise Refused(
                address_text(link.connection.peer_address),
                "a copy of this very process (a cloned machine?) has taken its place at the"
                " relay; stop one of them",
                final=True,
            )
        self._metrics.lost.inc()
        self.fault = str(closed)
        log.warning("disconnected", relay=link.connection.peer, reason=str(closed))
        if session.can_resume and self._is_busy():
            self._dialling.has_lost(link)
        if closed.lost and session.is_plain and self._offers:
            self._dialling.avoided = link.endpoint
            now = asyncio.get_running_loop().time()
            self._lost_plain = LostPlain(link.connection.peer, now + PLAIN_FORGETS)

    def _renewal(self, link: Link, session: Session) -> float | None:
        """When to connect once more because a plain relay may have dropped our services."""
        lost, self._lost_plain = self._lost_plain, None
        if lost is None or not session.is_plain or lost.relay != link.connection.peer:
            return None
        return lost.forgets_at if asyncio.get_running_loop().time() < lost.forgets_at else None

    def over(self, session: Session) -> None:
        """See ``session.Owner``."""
        if self._session is session:
            self._session = None
            self._up.clear()
            self._stays.clear()
        elif session.is_plain:  # it ends after another one has taken its place
            self._forgotten.set()

    async def register(self, session: Session) -> None:
        """See ``session.Owner``."""
        while True:
            self._forgotten.clear()
            await register_all(session, self._offers, self._identity)
            if not self._was_ready:
                self._was_ready = True
                log.info("ready")
            await self._forgotten.wait()
            await asyncio.sleep(PLAIN_SETTLES)

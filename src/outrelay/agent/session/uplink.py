"""Keeps one session up: races the relays, says HELLO, registers, and does it again.

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
from functools import partial
from typing import Never

from outrelay.agent import hints
from outrelay.agent.options import AgentOptions
from outrelay.agent.session.greeting import hello_of
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
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.observe import logs
from outrelay.lib.tasks import spawn
from outrelay.lib.transport.carrier import Address, Connection, Dialer, Stream
from outrelay.lib.transport.dial import Attempt, Backoff, dial, race
from outrelay.lib.values import address_text

log = logs.get_logger(__name__)

DIAL_FIRST = 2.0
DIAL_MOST = 5.0
"""Seconds a relay has to answer: few at first, so that one that has just restarted is dialled
anew rather than at the next retransmission; doubled with every failure."""

RETRY_BUSY = 5.0
RETRY_IDLE = 30.0
"""The longest wait between tries, seconds: with streams alive, and without."""

STEADY = 5.0
"""Seconds a session must have lasted for the next try to be an immediate one."""

DEREGISTER_MOST = 1.0
"""Seconds the relay has to take our DEREGISTER frames."""

PLAIN_FORGETS = 12.0
"""Seconds within which a plain relay drops a new registration for the lost connection's sake."""

PLAIN_SETTLES = 1.0
"""Seconds until it has done so for the sake of one that we have closed."""


@dataclass(frozen=True, slots=True)
class Link:
    """A connection, and the endpoint it was dialled at."""

    endpoint: Address
    connection: Connection

    def close(self) -> None:
        """Give it up."""
        self.connection.close()


@dataclass(frozen=True, slots=True)
class LostPlain:
    """A connection to a plain relay that was lost while it had our services.

    Args:
        endpoint: Where the relay is.
        forgets_at: When it has noticed at the latest, and dropped them; the loop's clock.
    """

    endpoint: Address
    forgets_at: float


class Uplink:
    """The session that is up now, and the one after it.

    Args:
        options: Relays, services and limits.
        identity: Ours.
        expires: When our certificate ends, seconds since the epoch.
        dialer: Connects to relays.
        take: Gets every stream a relay opens.
        is_busy: Whether streams are alive.
    """

    def __init__(
        self,
        options: AgentOptions,
        *,
        identity: Identity,
        expires: float,
        dialer: Dialer,
        take: Callable[[Session, Stream], None],
        is_busy: Callable[[], bool],
    ) -> None:
        self._options = options
        self._identity = identity
        self._expires = expires
        self._hello = hello_of(identity)
        self._dialer = dialer
        self.take = take
        self._is_busy = is_busy
        self._backoff = Backoff(immediate=True)
        self._patience = DIAL_FIRST
        self._session: Session | None = None
        self._up = asyncio.Event()
        self._was_up = False
        self._was_ready = False
        self._avoided: Address | None = None
        self._lost_plain: LostPlain | None = None
        self._forgotten = asyncio.Event()
        self._offers = options.expose
        self._leaving: tuple[Link, Session] | None = None

    async def run(self) -> Never:
        """Keep a session up, for ever; cancelled, it closes the connection.

        Raises:
            Refused: No relay will ever have us, or another process took our place.
        """
        async with TaskGroup() as group:
            while True:
                link, session = await self._connect()
                spawn(group, session.run(), name="agent: session")
                await self._use(link, session)

    async def session(self) -> Session:
        """The session that is up, as soon as one is.

        Raises:
            StreamRejected: None is up within the limit.
        """
        limit = self._options.limits.session
        try:
            async with asyncio.timeout(limit):
                return await self.next_session()
        except TimeoutError:
            reason = f"no relay is connected, waited {limit:g} s"
            raise StreamRejected(RejectCode.UNREACHABLE, reason) from None

    async def next_session(self) -> Session:
        """The session that is up, however long that takes."""
        while self._session is None:
            await self._up.wait()
        return self._session

    async def deregister(self) -> None:
        """Offer nothing any longer, and tell the relay."""
        offered, self._offers = self._offers, ()
        session = self._session
        if session is None:
            return
        try:
            async with asyncio.timeout(DEREGISTER_MOST):
                for each in offered:
                    await session.deregister(each.service)
        except (TransportError, TimeoutError) as error:
            log.warning("services not deregistered", error=str(error) or "the relay is slow")

    async def _connect(self) -> tuple[Link, Session]:
        """A session with whichever relay answers first."""
        while True:
            most = RETRY_BUSY if self._is_busy() else RETRY_IDLE
            await asyncio.sleep(self._backoff.delay(most))
            hint = hints.FOR_RELAY
            try:
                link = await race(self._tiers())
                hint = hints.FOR_HELLO
                self._avoided = link.endpoint  # until it has answered HELLO
                limits = self._options.limits
                session = await Session.start(link.connection, self._hello, limits, self)
            except Refused as refused:
                self._patience = min(2 * self._patience, DIAL_MOST)
                self._judge(refused, hint)
            else:
                self._avoided = None
                self._patience = DIAL_FIRST
                self._was_up = True
                return link, session

    def _tiers(self) -> list[list[Attempt[Link]]]:
        """All relays at once, but the one to avoid later."""
        alternates = self._leaving[1].alternates if self._leaving else ()
        relays = tuple(dict.fromkeys((*self._options.relays, *alternates)))
        tiers = (
            [each for each in relays if each != self._avoided],
            [each for each in relays if each == self._avoided],
        )
        return [[partial(self._dial, each) for each in tier] for tier in tiers if tier]

    async def _dial(self, endpoint: Address) -> Link:
        connection = await dial(
            self._dialer,
            endpoint,
            roles={Role.RELAY},
            server_name=self._options.server_name,
            limit=self._patience,
        )
        return Link(endpoint, connection)

    def _judge(self, refused: Refused, hint: str) -> None:
        """Go on after a refusal, unless it is for good; ``hint`` says what to do about it."""
        if time.time() >= self._expires:
            hint = hints.FOR_EXPIRED
        if not refused.final:
            log.warning("no relay connected", error=str(refused))
        elif self._was_up:
            log.error("refused by the relay", error=str(refused), hint=hint)
        else:
            reason = f"{refused.reason}; {hint}"
            raise Refused(refused.peer, reason, final=True) from refused

    async def _use(self, link: Link, session: Session) -> None:
        """Let new streams use ``session`` until it is over."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        where = address_text(link.connection.peer_address)
        log.info("connected", relay=link.connection.peer, address=where)
        self._session = session
        self._up.set()
        self._leave_behind()
        try:
            async with asyncio.timeout_at(self._renewal(link, session)):
                closed = await session.until_leaving()
        except TimeoutError:
            log.info("connecting again, a plain relay may have dropped our registration")
            link.close()
            closed = None
        if loop.time() - since >= STEADY:
            self._backoff.reset()
        if closed:
            self._lost(link, session, closed)
        elif self._session is session:  # until another one is up
            self._leaving = (link, session)
            self._avoided = link.endpoint

    def _leave_behind(self) -> None:
        """Another session is up: move what can move from the one that leaves."""
        leaving, self._leaving = self._leaving, None
        if leaving:
            leaving[1].retire()
            leaving[1].move()

    def _lost(self, link: Link, session: Session, closed: Closed) -> None:
        """Judge a connection that was closed or lost."""
        if closed.by_peer and closed.code is ErrorCode.REPLACED:
            raise Refused(
                address_text(link.connection.peer_address),
                "a copy of this very process (a cloned machine?) has taken its place at the"
                " relay; stop one of them",
                final=True,
            )
        log.warning("disconnected", relay=link.connection.peer, reason=str(closed))
        if closed.lost and session.is_plain and self._offers:
            self._avoided = link.endpoint
            now = asyncio.get_running_loop().time()
            self._lost_plain = LostPlain(link.endpoint, now + PLAIN_FORGETS)

    def _renewal(self, link: Link, session: Session) -> float | None:
        """When to connect once more because a plain relay may have dropped our services."""
        lost, self._lost_plain = self._lost_plain, None
        if lost is None or not session.is_plain or lost.endpoint != link.endpoint:
            return None
        return lost.forgets_at if asyncio.get_running_loop().time() < lost.forgets_at else None

    def over(self, session: Session) -> None:
        """See ``session.Owner``."""
        if self._session is session:
            self._session = None
            self._up.clear()
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

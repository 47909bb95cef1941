"""Sessions of agents, and the roster of all of them.

An agent is known by its URI. Connections of one process (the same ``instance``) replace
each other; those of several processes that share a certificate live side by side.

Source: protocol.md section 4.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass

from google.protobuf.message import Message

from outrelay.lib.errors import ErrorCode, RemoteProtocolError
from outrelay.lib.identity.uri import Identity
from outrelay.lib.orp.frame import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Connection, Stream
from outrelay.lib.transport.frames import FrameReader
from outrelay.relay.choice import Standing
from outrelay.relay.clock import unix_ms
from outrelay.relay.edge.outbox import Outbox
from outrelay.relay.limits import Limits

DEREGISTER = "deregister/1"
GOAWAY = "goaway/1"
RESUME = "resume/2"

OUR_FEATURES = frozenset({GOAWAY, "fwd-token/1", RESUME, DEREGISTER})
"""Features an agent of ours may offer; who offers none of them is *plain*."""

ACCEPTED_FEATURES = frozenset({DEREGISTER, GOAWAY, RESUME})
"""Those of them that this relay has."""

MOST_CAPABILITIES = 32
LONGEST_CAPABILITY = 64
INSTANCE_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What an agent says of a service it offers.

    Args:
        local_addr: Where the service is, informational only.
        weight: Its share of the streams among equals; 0 counts as 1.
        priority: Lower is preferred.
    """

    local_addr: str = ""
    weight: int = 0
    priority: int = 0


class Session:
    """One agent's connection, from HELLO to its end.

    Args:
        connection: The carrier's.
        control: Its control stream.
        frames: What is read from that, HELLO taken.
        hello: The agent's HELLO.
        limits: Of this relay.
    """

    __slots__ = (
        "capabilities", "connection", "features", "frames", "id", "identity", "instance",
        "outbox", "plain", "services", "serving", "since_ms", "standings", "uri",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        control: Stream,
        frames: FrameReader,
        hello: orp.Hello,
        limits: Limits,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.since_ms = unix_ms()
        self.connection = connection
        self.identity: Identity = connection.peer
        self.uri = connection.peer.uri
        self.instance = hello.instance if len(hello.instance) == INSTANCE_SIZE else b""
        self.capabilities = tuple(
            name for name in hello.capabilities[:MOST_CAPABILITIES] if _is_capability(name)
        )
        self.features = ACCEPTED_FEATURES.intersection(self.capabilities)
        self.plain = OUR_FEATURES.isdisjoint(self.capabilities)
        self.frames = frames
        self.outbox = Outbox(connection, control, limits.outbox_bytes)
        self.services: dict[str, Offer] = {}
        self.serving = 0  # streams it carries as a provider, or is asked to
        self.standings: dict[str, Standing] = {}

    @property
    def tenant(self) -> str:
        """Whose agent it is."""
        return self.identity.realm

    def standing(self, service: str) -> Standing:
        """What became of asking it for a service that it offers."""
        if (standing := self.standings.get(service)) is None:
            standing = self.standings[service] = Standing()
        return standing

    def say_ended(self, stream_id: int, code: ErrorCode) -> None:
        """Say with which code a stream's leg will be reset, where the carrier does not."""
        if RESUME in self.features and not self.connection.tells_codes:
            self.send(FrameType.STREAM_ENDED, orp.StreamEnded(stream_id=stream_id, code=code))

    def send(self, type: FrameType, message: Message) -> None:  # noqa: A002 - the wire's word
        """Queue a control frame."""
        self.outbox.send(type, message)


def _is_capability(name: str) -> bool:
    return 0 < len(name) <= LONGEST_CAPABILITY and name.isprintable()


class Roster:
    """The sessions there are, by agent.

    Args:
        per_agent: Sessions one agent may have at a time.
    """

    def __init__(self, per_agent: int) -> None:
        self._per_agent = per_agent
        self._agents: dict[str, list[Session]] = {}
        self._present: Counter[str] = Counter()
        self._on_tenants: Callable[[], None] = _nobody

    def __iter__(self) -> Iterator[Session]:
        return (session for sessions in self._agents.values() for session in sessions)

    @property
    def tenants(self) -> Set[str]:
        """Those that have an agent here."""
        return self._present.keys()

    def subscribe(self, on_tenants: Callable[[], None]) -> None:
        """Call ``on_tenants`` when a tenant's first agent has come, or its last one has left."""
        self._on_tenants = on_tenants

    def of(self, uri: str) -> list[Session]:
        """The sessions of an agent, the newest last."""
        return self._agents.get(uri, [])

    def join(self, session: Session) -> Session | None:
        """Add a session; the one it takes the place of, if any.

        Raises:
            RemoteProtocolError: The agent has too many.
        """
        sessions = self._agents.setdefault(session.uri, [])
        replaced = next((one for one in sessions if _same_process(one, session)), None)
        if replaced is not None:
            sessions.remove(replaced)
        elif len(sessions) >= self._per_agent:
            raise RemoteProtocolError("too many connections of this agent", ErrorCode.LIMIT)
        sessions.append(session)
        if replaced is None:
            self._count(session.tenant, 1)
        return replaced

    def leave(self, session: Session) -> None:
        """Remove a session; nothing happens when it was replaced before."""
        sessions = self._agents.get(session.uri, [])
        if session in sessions:
            sessions.remove(session)
            self._count(session.tenant, -1)
        if not sessions:
            self._agents.pop(session.uri, None)

    def _count(self, tenant: str, change: int) -> None:
        before = tenant in self._present
        self._present[tenant] += change
        if not self._present[tenant]:
            del self._present[tenant]
        if before is not (tenant in self._present):
            self._on_tenants()


def _nobody() -> None:
    """Nobody has subscribed."""


def _same_process(one: Session, other: Session) -> bool:
    return one.instance != b"" and one.instance == other.instance

"""A place where a test plays the relay, the applications and the backends of one agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from outrelay.agent import app
from outrelay.agent.options import AgentOptions, Consume, Expose
from outrelay.agent.session.proof import Proof
from outrelay.lib.errors import OutRelayError
from outrelay.lib.identity.uri import Identity
from outrelay.lib.service import cause_of
from outrelay.lib.transport.carrier import Dialer
from outrelay.lib.transport.memory import EXPIRES, MemoryNetwork
from outrelay.lib.transport.ways import Carrier, Ways
from outrelay.lib.values import parse_address
from tests.agent.tcp import HOST, Tcp, connect
from tests.support.events import Events
from tests.support.relay_peer import FEATURES, Link, RelayPeer

AGENT = Identity.parse("outrelay://acme/agent/4a9c3f52-6d0e-4c0b-9a57-0d1f3b7e2c11")
RELAY = Identity.parse("outrelay://local/relay/r1")

NOWHERE = Path("unused.pem")
OPTIONS = AgentOptions(relays=(("127.0.0.1", 7443),), cert=NOWHERE, key=NOWHERE, ca=NOWHERE)

SERVICE = "db"


class Agent:
    """An agent that runs."""

    def __init__(self, seen: Events, proof: Proof) -> None:
        self.seen = seen
        self.proof = proof
        self.stop = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def app(self, service: str = SERVICE, method: str = "") -> Tcp:
        """An application that has just connected."""
        names = Consume(service=service, method=method, bind=(HOST, 0)).names
        line = await self.seen.wait("listening", **names)
        return await connect(parse_address(str(line["address"]))[1])

    async def ended(self) -> None:
        """Return once it has stopped; what an operator would be told is raised."""
        assert self.task
        try:
            await self.task
        except ExceptionGroup as errors:
            raise cause_of(errors) from None


class Place:
    """One network with one relay on it, which the test plays.

    Args:
        seen: What is logged.
        network: Where relay and agents meet.
    """

    def __init__(self, seen: Events, network: MemoryNetwork | None = None) -> None:
        self.seen = seen
        self.network = network or MemoryNetwork()
        self.relay = self.relay_at("127.0.0.1")

    def relay_at(self, host: str, identity: Identity = RELAY) -> RelayPeer:
        """One more relay."""
        return RelayPeer(self.network.listen((host, 7443), identity))

    def ways(self, quic: Dialer | None = None, tcp: Dialer | None = None) -> Ways:
        """Both carriers, on the network unless others are given."""
        dialer = self.network.dialer(AGENT)
        return Ways({Carrier.QUIC: quic or dialer, Carrier.TCP: tcp or dialer})

    @asynccontextmanager
    async def agent(
        self,
        *,
        consume: Sequence[str | Consume] = (),
        expose: Mapping[str, int] | None = None,
        options: AgentOptions = OPTIONS,
        dialer: Dialer | None = None,
        tcp: Dialer | None = None,
        expires: float = EXPIRES,
    ) -> AsyncIterator[Agent]:
        """An agent that runs until the end of the context.

        Args:
            consume: Services to listen for; those without a method before the others.
            expose: Services to provide, and the ports of their backends.
            options: Everything else.
            dialer: Instead of one on the network.
            tcp: What dials over TCP, likewise.
            expires: When its certificate ends, seconds since the epoch.
        """
        options = replace(
            options,
            consume=tuple(
                each if isinstance(each, Consume) else Consume(service=each, bind=(HOST, 0))
                for each in consume
            ),
            expose=tuple(
                Expose(service=name, target=(HOST, port)) for name, port in (expose or {}).items()
            ),
        )
        agent = Agent(self.seen, Proof(expires))
        work = app.serve(options, AGENT, agent.proof, self.ways(dialer, tcp), agent.stop)
        agent.task = asyncio.get_running_loop().create_task(work, name="agent")
        try:
            yield agent
        finally:
            agent.task.cancel()
            await asyncio.wait([agent.task])
            if not agent.task.cancelled() and (error := agent.task.exception()):
                assert isinstance(error, ExceptionGroup)
                assert isinstance(cause_of(error), OutRelayError)

    @asynccontextmanager
    async def consumer(
        self, *, features: Sequence[str] = FEATURES, options: AgentOptions = OPTIONS
    ) -> AsyncIterator[tuple[Agent, Link]]:
        """An agent that listens for ``SERVICE``, and its connection at the relay."""
        async with self.agent(consume=[SERVICE], options=options) as agent:
            link = await self.relay.accept(features)
            await self.seen.wait("connected")
            yield agent, link

    @asynccontextmanager
    async def provider(
        self,
        port: int,
        *,
        features: Sequence[str] = FEATURES,
        options: AgentOptions = OPTIONS,
    ) -> AsyncIterator[tuple[Agent, Link]]:
        """An agent that has registered ``SERVICE``, whose backend is at ``port``."""
        async with self.agent(expose={SERVICE: port}, options=options) as agent:
            link = await self.relay.accept(features)
            assert await link.registered() == SERVICE
            yield agent, link

"""A relay without its controller, on the in-memory carrier: the rooms that serve agents.

async with relay_rooms(rules=[allow("*")]) as relay:
    agent = await relay.agent(AGENT_A, "deregister/1")
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from outrelay.lib.control.v1 import audit_pb2 as audit
from outrelay.lib.identity.uri import Identity
from outrelay.lib.observe.metrics import RelayMetrics
from outrelay.lib.policy import Decision, P2PMode, PolicySet, RelayMode, Rule
from outrelay.lib.tasks import beside
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.transport.memory import (
    EXPIRES,
    MemoryConnection,
    MemoryListener,
    MemoryNetwork,
)
from outrelay.relay.audit.trail import MEMORY, Trail
from outrelay.relay.directory import Directory
from outrelay.relay.doors import Doors
from outrelay.relay.edge.accept import Edge
from outrelay.relay.edge.rooms import edge_of
from outrelay.relay.edge.session import Roster
from outrelay.relay.limits import Limits
from outrelay.relay.pairs import Pairs
from outrelay.relay.policy.judge import Judge
from outrelay.relay.quotas import Quotas
from outrelay.relay.shared import Shared
from tests.support.peers import AGENT_A, AGENT_B, FEATURES, AgentPeer, accept

RELAY = Identity.parse("outrelay://local/relay/r1")


def rule(
    target: str,
    *,
    rule_id: str = "1",
    tenant: str = "acme",
    caller: str = "*",
    method: str = "",
    decision: Decision = Decision.ALLOW,
    p2p_mode: P2PMode = P2PMode.ALLOWED,
    relay_mode: RelayMode = RelayMode.SPLICE,
) -> Rule:
    """A rule, of acme unless said otherwise."""
    return Rule(
        id=rule_id,
        tenant=tenant,
        caller_pattern=caller,
        target_pattern=target,
        method_pattern=method,
        decision=decision,
        p2p_mode=p2p_mode,
        relay_mode=relay_mode,
    )


ALLOW_ALL = rule("*")


@dataclass(kw_only=True)
class Rooms:
    """The rooms of one relay, and agents that dial it."""

    network: MemoryNetwork
    listener: MemoryListener
    registry: CollectorRegistry
    trail: Trail
    roster: Roster
    directory: Directory
    judge: Judge
    pairs: Pairs
    quotas: Quotas
    edge: Edge
    published: list[str] = field(default_factory=list)
    """URIs of agents whose offers changed."""

    async def peer(self, identity: Identity, *, expires: float = EXPIRES) -> AgentPeer:
        """An agent that has dialled and said nothing yet."""
        dialer = self.network.dialer(identity, expires=expires)
        return await AgentPeer.dial(dialer, self.listener.address, identity)

    async def agent(
        self, identity: Identity, *capabilities: str, instance: bytes = b""
    ) -> AgentPeer:
        """An agent that has said HELLO."""
        peer = await self.peer(identity)
        await peer.hello(*capabilities, instance=instance)
        return peer

    async def provider(
        self, identity: Identity = AGENT_B, service: str = "echo", *capabilities: str
    ) -> AgentPeer:
        """An agent that has registered a service."""
        peer = await self.agent(identity, *(capabilities or FEATURES))
        await peer.register(service)
        return peer

    def events(self, *kinds: str) -> list[audit.AuditEvent]:
        """What was recorded of some kinds, held events included."""
        self.trail.hold_nothing_back()
        events = [record.decoded() for record in self.trail.batch(1_000_000)]
        return [event for event in events if event.event in kinds]

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        return self.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def relay_rooms(
    *,
    rules: Iterable[Rule] | None = (ALLOW_ALL,),
    limits: Limits = Limits(),  # noqa: B008 - frozen
    max_streams: int = 1000,
    audit_memory: int = MEMORY,
    tenant: str = "",
    allow_all: bool = False,
) -> AsyncIterator[Rooms]:
    """A relay that decides by ``rules``; None: it has no policy yet."""
    registry = CollectorRegistry()
    metrics = RelayMetrics.on(registry)
    trail = Trail(metrics.audit, relay_id="r1", memory=audit_memory)
    shared = Shared.of(limits, metrics, trail, allow_all=allow_all)

    async def elsewhere(tenant: str, name: str) -> set[str]:
        return shared.directory.relays_of(tenant, name)

    if rules is not None:
        shared.judge.replace(PolicySet(rules))
    edge = edge_of(shared, relay_id="r1", elsewhere=elsewhere, tenant=tenant)
    network = MemoryNetwork(max_streams=max_streams)
    listener = network.listen(("127.0.0.1", 0), RELAY)
    rooms = Rooms(
        network=network,
        listener=listener,
        registry=registry,
        trail=trail,
        roster=shared.roster,
        directory=shared.directory,
        judge=shared.judge,
        pairs=shared.pairs,
        quotas=shared.quotas,
        edge=edge,
    )
    shared.directory.subscribe(rooms.published.append)
    async with beside(edge.run(Doors(listener)), name="relay under test"):
        await asyncio.sleep(0)  # from now on its tasks are there
        yield rooms
        await listener.close()


@dataclass(kw_only=True)
class Call:
    """A spliced stream, seen from both agents."""

    consumer: AgentPeer
    provider: AgentPeer
    near: Stream
    far: Stream


async def call(
    relay: Rooms,
    *,
    stream_id: int = 7,
    consumer: AgentPeer | None = None,
    provider: AgentPeer | None = None,
) -> Call:
    """Have agent A, or ``consumer``, call the service echo of agent B, or ``provider``."""
    provider = provider or await relay.provider()
    consumer = consumer or await relay.agent(AGENT_A, *FEATURES)
    near = await consumer.open("echo", stream_id=stream_id)
    far, incoming = await provider.incoming()
    assert incoming.stream_id == stream_id
    await accept(far)
    assert (await consumer.ready()).stream_id == stream_id
    assert (await provider.ready()).stream_id == stream_id
    return Call(consumer=consumer, provider=provider, near=near, far=far)


def severed(peer: AgentPeer) -> None:
    """Lose an agent's path."""
    connection = peer.connection
    assert isinstance(connection, MemoryConnection)
    connection.sever()

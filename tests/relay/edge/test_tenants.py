"""Tenants at one relay: same names do not meet, and nobody can tell that there is another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.identity.uri import Identity
from outrelay.lib.orp.frame import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.policy import Decision
from outrelay.relay.limits import Bounds, Limits
from tests.relay.rooms import ALLOW_ALL, Rooms, call, relay_rooms, rule
from tests.support.peers import (
    AGENT_A,
    AGENT_B,
    AGENT_C,
    FEATURES,
    STRANGER,
    AgentPeer,
    accept,
    reject,
    rejection,
)
from tests.support.turns import until
from tests.support.virtual_loop import elapsed

pytestmark = pytest.mark.virtual_time

FOREIGNER = Identity.parse("outrelay://globex/agent/0f0f0f0f-0000-4000-8000-000000000001")
TWIN = Identity.parse(AGENT_B.uri.replace("acme", "globex"))
"""An agent of another tenant whose uuid is that of one of ours."""

RULES = [
    *(rule(name, rule_id=name) for name in ("echo", "time", "nobody")),
    rule("vault", rule_id="no", decision=Decision.DENY),
]
LIMITS = Limits(
    streams=Bounds(agent=3, tenant=4),
    services=Bounds(agent=2, tenant=3),
    opens_per_second=Bounds(agent=20, tenant=30),
)


# ---- what another tenant may have --------------------------------------------------------------


async def nothing(_relay: Rooms) -> None:
    """Nobody of another tenant is here."""


async def a_provider(relay: Rooms) -> None:
    """Everything acme asks for exists, and may be called."""
    for name in ("echo", "time"):
        await relay.provider(STRANGER, name)
    await relay.provider(TWIN, "vault")
    for number, target in enumerate(("echo", "time", "vault", "outrelay://*")):
        relay.judge.add(rule(target, tenant="globex", rule_id=str(number)))


async def rows_elsewhere(relay: Rooms) -> None:
    """Another relay has it."""
    for name in ("echo", "time", "vault"):
        row = registry.Provider(
            service_id=f"globex/{name}", agent_uri=STRANGER.uri, relay_id="r2", relay_endpoint="x:1"
        )
        relay.directory.add(row)


async def streams(relay: Rooms) -> None:
    """As many streams as it may have, by the ids that acme uses, too."""
    provider = await relay.provider(FOREIGNER, "echo")
    relay.judge.add(rule("echo", tenant="globex"))
    for consumer in (STRANGER, TWIN):
        peer = await relay.agent(consumer, *FEATURES)
        for number in (1, 2):
            stream_id = number + (2 if consumer is TWIN else 0)
            await peer.open("echo", stream_id=stream_id)
            far, _ = await provider.incoming()
            await accept(far)
            await peer.ready()
    assert (await rejection(await peer.open("echo", stream_id=9)))[0] == 429


async def a_failed_provider(relay: Rooms) -> None:
    """One that rests."""
    provider = await relay.provider(FOREIGNER, "time")
    relay.judge.add(rule("time", tenant="globex"))
    consumer = await relay.agent(TWIN, *FEATURES)
    near = await consumer.open("time", stream_id=1)
    far, _ = await provider.incoming()
    await reject(far, 503, "no")
    assert (await rejection(near))[0] == 503


async def a_flood(relay: Rooms) -> None:
    """More opens than it may."""
    peer = await relay.agent(STRANGER, *FEATURES)
    for number in range(1, 60):
        await rejection(await peer.open("echo", stream_id=number))


async def a_cached_decision(relay: Rooms) -> None:
    """The same names decided before, the other way round."""
    relay.judge.add(rule("vault", tenant="globex", rule_id="vault"))
    relay.judge.add(rule("echo", tenant="globex", rule_id="echo", decision=Decision.DENY))
    peer = await relay.agent(STRANGER, *FEATURES)
    for number, name in enumerate(("echo", "time", "vault", "nobody"), start=1):
        await rejection(await peer.open(name, stream_id=number))


NEIGHBOURS = (
    nothing,
    a_provider,
    rows_elsewhere,
    streams,
    a_failed_provider,
    a_flood,
    a_cached_decision,
)


# ---- what acme does, and hears -----------------------------------------------------------------


async def heard(relay: Rooms) -> list[object]:
    """Everything an agent of acme hears that tries all it can think of."""
    words: list[object] = []
    peer = await relay.agent(AGENT_A, *FEATURES)
    names = ("echo", "vault", "nobody", "acme/echo", "globex/echo", "outrelay://globex", "")
    for stream_id, name in enumerate(names, start=1):
        words.append(await rejection(await peer.open(name, stream_id=stream_id)))
    for name in ("echo", "globex/echo", "time", "more"):
        await peer.ask_to_register(name)
        frame = await peer.frames.next_frame()
        assert frame is not None
        words.append((frame.type, frame.payload))
    for stream_id in (1, 2, 3):
        if stream_id == 3:
            words.append(await rejection(await peer.open("time", stream_id=1)))
        await peer.open("time", stream_id=stream_id)
        far, incoming = await peer.incoming()
        words.append(incoming.SerializeToString(deterministic=True))
        await accept(far)
        words += [(await peer.ready()).SerializeToString(deterministic=True) for _ in range(2)]
    words.append(await rejection(await peer.open("time", stream_id=9)))
    return [*words, elapsed()]


@asynccontextmanager
async def relay_beside(neighbour: Callable[[Rooms], Awaitable[None]]) -> AsyncIterator[Rooms]:
    async with relay_rooms(rules=RULES, limits=LIMITS) as relay:
        await neighbour(relay)
        yield relay


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
async def test_a_tenant_hears_the_same_whatever_another_one_has(
    neighbour: Callable[[Rooms], Awaitable[None]],
) -> None:
    async with relay_beside(nothing) as relay:
        alone = await heard(relay)
    async with relay_beside(neighbour) as relay:
        assert await heard(relay) == alone
    codes = [word[0] for word in alone if isinstance(word, tuple) and isinstance(word[0], int)]
    assert {400, 403, 404, 409, 429} <= set(codes)


# ---- same names --------------------------------------------------------------------------------


async def opened(consumer: AgentPeer, provider: AgentPeer, stream_id: int) -> str:
    """Whose service a call of echo reaches."""
    near = await consumer.open("echo", stream_id=stream_id)
    far, incoming = await provider.incoming()
    assert incoming.source_agent_uri == consumer.identity.uri
    await accept(far)
    ready = await consumer.ready()
    await provider.ready()
    await far.write(b"from " + provider.identity.realm.encode())
    assert await near.read() == b"from " + provider.identity.realm.encode()
    return ready.peer_agent_uri


async def test_same_services_and_same_ids_of_two_tenants_do_not_meet() -> None:
    async with relay_rooms(rules=[ALLOW_ALL, rule("*", tenant="globex")]) as relay:
        ours, theirs = await relay.provider(AGENT_B), await relay.provider(TWIN)
        one, other = await relay.agent(AGENT_A, *FEATURES), await relay.agent(STRANGER, *FEATURES)
        for stream_id in (1, 2, 3):
            assert await opened(one, ours, stream_id) == AGENT_B.uri
            assert await opened(other, theirs, stream_id) == TWIN.uri

        await ours.deregister("echo")
        assert (await rejection(await one.open("echo", stream_id=4)))[0] == 404
        assert await opened(other, theirs, 4) == TWIN.uri


async def test_a_provider_that_fails_in_one_tenant_is_no_reason_to_try_one_of_another() -> None:
    async with relay_rooms(rules=[ALLOW_ALL, rule("*", tenant="globex")]) as relay:
        ours = await relay.provider(AGENT_B)
        theirs = await relay.provider(TWIN)
        consumer = await relay.agent(AGENT_A, *FEATURES)
        near = await consumer.open("echo", stream_id=1)
        far, _ = await ours.incoming()
        await reject(far, 503, "busy")
        assert await rejection(near) == (503, "busy")
        (session,) = relay.roster.of(TWIN.uri)
        assert session.serving == 0
        await theirs.ping()


async def test_what_is_recorded_of_a_call_names_its_tenant_only() -> None:
    async with relay_rooms(rules=[ALLOW_ALL, rule("*", tenant="globex")]) as relay:
        await relay.provider(STRANGER)
        line = await call(relay, stream_id=5)
        consumer = await relay.agent(AGENT_C, *FEATURES)
        await rejection(await consumer.open("nobody", stream_id=6))
        line.near.finish()
        line.far.finish()
        await until(lambda: len(relay.pairs) == 0)
        for event in relay.events("open", "close", "reject"):
            assert event.tenant == "acme"
            assert "globex" not in str(event)


async def test_a_registration_is_acknowledged_by_its_own_tenants_name() -> None:
    async with relay_rooms() as relay:
        peers = [await relay.agent(each, *FEATURES) for each in (AGENT_B, TWIN)]
        for peer in peers:
            await peer.ask_to_register("echo")
            ack = await peer.expect(FrameType.REGISTER_ACK, orp.RegisterAck)
            assert ack.service_id == f"{peer.identity.realm}/echo"

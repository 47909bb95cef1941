"""Many services, many rules, and a relay that cannot keep up with their changes."""

from __future__ import annotations

import asyncio
import signal
import uuid
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from outrelay.lib.control.channel import open_channel
from outrelay.lib.control.v1 import policy_pb2, registry_pb2
from outrelay.lib.control.v1.policy_pb2_grpc import PolicyStub
from outrelay.lib.control.v1.registry_pb2_grpc import RegistryStub
from outrelay.lib.identity.certs import load_credentials
from outrelay.lib.values import Address
from tests.integration.peers import Backend, answer_to, calling, echo
from tests.integration.world import ANY_PORT, APP, SECRET, TENANT, World, write_pki
from tests.support.patience import PATIENCE
from tests.support.processes import Programs

if TYPE_CHECKING:  # it is of the stubs only
    from outrelay.lib.control.v1.policy_pb2_grpc import PolicyAsyncStub

pytestmark = pytest.mark.asyncio(loop_scope="session")

TENANTS = 10
AT_ONCE = 32
BEHIND = "fell more than"
"""What a watcher is told that was cut off."""

SIZE, CHANGES = 20, 500
"""Rules that change at a time, and times: more than a watcher's queue and what is on its way."""


@asynccontextmanager
async def calls(world: World, holder: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the controller, as the holder of a certificate."""
    credentials = load_credentials(world.pki / f"{holder}.pem", world.pki / f"{holder}.key")
    target = await world.controller_address()
    async with open_channel(target, credentials=credentials, trust=world.trust) as channel:
        yield channel


def rule(tenant: str, target: str, **more: str) -> policy_pb2.PolicyRule:
    fields = {"tenant": tenant, "caller_pattern": "*", "target_pattern": target, **more}
    return policy_pb2.PolicyRule(decision=policy_pb2.DECISION_ALLOW, **fields)  # type: ignore[arg-type]


async def replace(policy: PolicyAsyncStub, tenant: str, rules: list[policy_pb2.PolicyRule]) -> None:
    """Let a tenant have exactly these rules."""
    listed = await policy.ListPolicies(
        policy_pb2.ListPoliciesRequest(tenant=tenant), timeout=PATIENCE
    )
    await policy.ReplacePolicies(
        policy_pb2.ReplacePoliciesRequest(
            tenant=tenant, rules=rules, expected_revision=listed.revision
        ),
        timeout=PATIENCE,
    )


async def fill(channel: grpc.aio.Channel, services: int, rules: int) -> None:
    """Have so many services and rules of several tenants at the controller."""
    registry, policy = RegistryStub(channel), PolicyStub(channel)
    await registry.UpsertRelay(
        registry_pb2.UpsertRelayRequest(id="far", region="far", endpoint="192.0.2.1:7443")
    )
    few = asyncio.Semaphore(AT_ONCE)

    async def register(number: int) -> None:
        tenant = f"t{number % TENANTS}"
        async with few:
            await registry.RegisterService(
                registry_pb2.RegisterServiceRequest(
                    tenant=tenant,
                    service_name=f"s{number}",
                    agent_uri=f"outrelay://{tenant}/agent/{uuid.UUID(int=number)}",
                    relay_id="far",
                ),
                timeout=PATIENCE,
            )

    await asyncio.gather(*map(register, range(services)))
    for each in range(TENANTS):
        tenant = f"t{each}"
        await replace(policy, tenant, [rule(tenant, f"s{n}") for n in range(rules // TENANTS)])


@pytest.mark.parametrize(
    ("services", "rules"), [(100, 500), pytest.param(5000, 10_000, marks=pytest.mark.soak)]
)
async def test_a_relay_knows_all_there_is_when_it_has_started(
    tmp_path: Path, services: int, rules: int
) -> None:
    write_pki(tmp_path / "pki")
    async with Backend.start() as backend, Programs() as programs:
        world = World(programs=programs, directory=tmp_path, backend=backend, web=backend.address)
        world.controller = await programs.start(
            "outrelay-controller",
            *("--listen", ANY_PORT, "--listen-plaintext", ANY_PORT),
            *("--db", tmp_path / "controller.db"),
            *world.credentials("controller"),
        )
        await world.controller.event("ready")
        host, port = await world.controller.listening(listener="plaintext")
        async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
            await fill(channel, services, rules)
            await world.start_relay()
            await world.relay.event("policy loaded", rules=rules)
            await world.relay.event("directory loaded", providers=services)

            await world.start_provider()  # a change that it hears, and makes
            await PolicyStub(channel).AddPolicy(
                policy_pb2.AddPolicyRequest(rule=rule(TENANT, APP)), timeout=PATIENCE
            )
            await world.relay.event("agent connected")
            await world.start_consumer()
            async with backend.serving(echo):
                await until_answered(world.at[APP])
        await asyncio.gather(world.consumer.stop(), world.provider.stop())
        await world.relay.stop()


async def until_answered(address: Address) -> None:
    """Call until it is allowed, which takes its moment."""
    async with asyncio.timeout(10):
        while True:
            with suppress(ConnectionError):
                assert await answer_to(address, b"ping") == b"ping"
                return


async def ping(reader: StreamReader, writer: StreamWriter) -> bytes:
    writer.write(b"ping")
    return await reader.readexactly(4)


async def test_a_relay_that_falls_behind_lists_again_and_misses_nothing(
    own_world: World,
) -> None:
    world = own_world
    long = "x" * 1000
    sets = [
        [rule(TENANT, long, id=f"{name}{number}", caller_pattern=long) for number in range(SIZE)]
        for name in "ab"
    ]
    async with (
        calls(world, "operator") as channel,
        world.backend.serving(echo),
        calling(world.at[APP]) as stream,
    ):
        assert await ping(*stream) == b"ping"
        policy = PolicyStub(channel)
        listed = await policy.ListPolicies(policy_pb2.ListPoliciesRequest(tenant=TENANT))
        revision = listed.revision
        mark = world.relay.mark()
        world.relay.send_signal(signal.SIGSTOP)
        for number in range(CHANGES):
            request = policy_pb2.ReplacePoliciesRequest(
                tenant=TENANT,
                rules=[*listed.rules, *sets[number % 2]],
                expected_revision=revision,
            )
            revision = (await policy.ReplacePolicies(request, timeout=PATIENCE)).revision
        world.relay.send_signal(signal.SIGCONT)

        cut = await world.relay.event("controller is away", since=mark, follows="policy")
        assert BEHIND in str(cut["reason"])
        loaded = await world.relay.event("policy loaded", since=mark)
        assert loaded["rules"] == len(listed.rules) + SIZE
        assert await ping(*stream) == b"ping"  # the rule that allows it was there all the time
        await world.allow(SECRET)
        await until_answered(world.at[SECRET])
    assert len(world.relay.seen("policy loaded", since=mark)) == 1

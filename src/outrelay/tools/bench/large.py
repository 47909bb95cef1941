"""How soon a relay knows what a large controller knows: all of it at its start, then a change.

The controller holds many services of another relay and many rules. A relay is *started* from
its exec to the log line that says the last of policy, directory and listener is there. A
change has *reached* it when it has acted on it: a stream that runs is cut for the
application when a new rule denies it, counted from before the rule is handed to the
controller. That is more than the way from controller to relay, and nothing less can be seen
from outside.
"""

from __future__ import annotations

import asyncio
import socket
import time
from asyncio import TaskGroup
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc.aio

from outrelay.lib.control.channel import open_channel
from outrelay.lib.control.v1 import policy_pb2 as policy
from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.control.v1.policy_pb2_grpc import PolicyStub
from outrelay.lib.control.v1.registry_pb2_grpc import RegistryStub
from outrelay.lib.identity.certs import Credentials, load_credentials
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.tasks import spawn
from outrelay.lib.values import Address, address_text
from outrelay.tools.bench import crowd
from outrelay.tools.deployment import TENANT, Deployment

SERVICE = "load-large"

_OTHER_RELAY = "r2"
_AT_ONCE = 32
_PATIENCE = 60.0
_PROVIDERS = "outrelay://acme/agent/0e0e0e0e-0000-4000-8000-00000000000e"
_LINES = ("policy loaded", "directory loaded", "ready")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found.

    Args:
        started: Seconds of each start of the relay.
        reached: Seconds each change took.
    """

    started: Sequence[float]
    reached: Sequence[float]


def measure(
    directory: Path, backend: Address, *, services: int, rules: int, starts: int, changes: int
) -> Found:
    """Measure both in a deployment of its own.

    Args:
        directory: An empty one.
        backend: Echoes.
        services: In the registry, none of which is the one that is called.
        rules: In the tenant, none of which is about the call.
        starts: How often the relay is started.
        changes: How often a rule is added.
    """
    with Deployment(directory) as deployment:
        deployment.make_certificates()
        deployment.start_controller()
        asyncio.run(_fill(deployment, directory, services, rules))
        started = [_start(deployment) for _ in range(starts)]
        deployment.start_provider({SERVICE: backend})
        at = deployment.start_consumer([SERVICE])[SERVICE]
        reached = asyncio.run(_change(deployment, directory, at, changes))
    return Found(started=started, reached=reached)


def _start(deployment: Deployment) -> float:
    """Start the relay, in place of one that runs; how long it took, seconds."""
    deployment.stop_relay()
    began = time.time()
    relay = deployment.start_relay()
    last = max(float(str(relay.wait_for(line)["ts_unix_ms"])) for line in _LINES)
    return last / 1000 - began


# ---- the controller's side -----------------------------------------------------------------


def _channel(deployment: Deployment, pki: Path, credentials: Credentials) -> grpc.aio.Channel:
    return open_channel(
        address_text(deployment.controller),
        credentials=credentials,
        trust=crowd.authority(pki).trust,
    )


def _operator(pki: Path) -> Credentials:
    return load_credentials(pki / "operator.pem", pki / "operator.key")


async def _fill(deployment: Deployment, directory: Path, services: int, rules: int) -> None:
    """Give the controller its size, as an operator and another relay."""
    pki = directory / "pki"
    other = crowd.authority(pki).credentials(
        Identity(realm="local", role=Role.RELAY, name=_OTHER_RELAY),
        now=datetime.now(UTC),
        lifetime=timedelta(hours=1),
    )
    async with _channel(deployment, pki, _operator(pki)) as channel:
        everything = [_rule(f"service-{number}") for number in range(rules)]
        request = policy.ReplacePoliciesRequest(tenant=TENANT, rules=[*everything, _rule(SERVICE)])
        await PolicyStub(channel).ReplacePolicies(request, timeout=_PATIENCE)
    async with _channel(deployment, pki, other) as channel:
        stub, turn = RegistryStub(channel), asyncio.Semaphore(_AT_ONCE)
        beat = registry.UpsertRelayRequest(id=_OTHER_RELAY, region="local", endpoint="127.0.0.1:9")
        await stub.UpsertRelay(beat, timeout=_PATIENCE)

        async def register(number: int) -> None:
            async with turn:
                row = registry.RegisterServiceRequest(
                    tenant=TENANT,
                    service_name=f"service-{number}",
                    agent_uri=_PROVIDERS,
                    relay_id=_OTHER_RELAY,
                )
                await stub.RegisterService(row, timeout=_PATIENCE)

        await asyncio.gather(*(register(number) for number in range(services)))


def _rule(
    target: str, decision: policy.Decision.ValueType = policy.DECISION_ALLOW
) -> policy.PolicyRule:
    return policy.PolicyRule(
        tenant=TENANT, caller_pattern="*", target_pattern=target, decision=decision
    )


# ---- a change ------------------------------------------------------------------------------


async def _change(
    deployment: Deployment, directory: Path, at: Address, changes: int
) -> list[float]:
    """Cut a stream so often by a rule, and let it through again by removing that."""
    pki, took = directory / "pki", []
    async with _channel(deployment, pki, _operator(pki)) as channel:
        stub = PolicyStub(channel)
        for _ in range(changes):
            with await asyncio.to_thread(_served, at) as stream:
                async with TaskGroup() as group:
                    cut = spawn(group, asyncio.to_thread(_await_end, stream), name="bench: cut")
                    began = time.monotonic()
                    request = policy.AddPolicyRequest(rule=_rule(SERVICE, policy.DECISION_DENY))
                    added = await stub.AddPolicy(request, timeout=_PATIENCE)
            took.append(cut.result() - began)
            removal = policy.RemovePolicyRequest(tenant=TENANT, id=added.id)
            await stub.RemovePolicy(removal, timeout=_PATIENCE)
    return took


def _served(at: Address) -> socket.socket:
    """A stream that is spliced, as soon as policy lets one be."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        stream = socket.create_connection(at, timeout=_PATIENCE)
        try:
            stream.sendall(b"?")
            if stream.recv(1):
                return stream
        except OSError:
            if time.monotonic() > deadline:
                raise
        stream.close()
        time.sleep(0.01)


def _await_end(stream: socket.socket) -> float:
    """When the stream ended."""
    try:
        while stream.recv(1):
            pass
    except OSError:
        pass  # an RST, as it should be
    return time.monotonic()

"""A controller of this process on real sockets and a real file, and callers of every kind.

async with live_controller(tmp_path) as controller:
    async with controller.calling(controller.pki.relay()) as services:
        await services.registry.UpsertRelay(...)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import grpc.aio
import pytest

from outrelay.controller.app import serving
from outrelay.controller.options import ControllerOptions
from outrelay.lib.control.channel import open_channel
from outrelay.lib.control.v1 import policy_pb2, registry_pb2
from outrelay.lib.control.v1.admin_pb2_grpc import AdminStub
from outrelay.lib.control.v1.audit_pb2_grpc import AuditStub
from outrelay.lib.control.v1.fleet_pb2_grpc import FleetStub
from outrelay.lib.control.v1.policy_pb2_grpc import PolicyStub
from outrelay.lib.control.v1.registry_pb2_grpc import RegistryStub
from outrelay.lib.identity.certs import Credentials, Trust
from tests.support.pki import TestPki, save

if TYPE_CHECKING:  # they are of the stubs only
    from outrelay.lib.control.v1.admin_pb2_grpc import AdminAsyncStub
    from outrelay.lib.control.v1.audit_pb2_grpc import AuditAsyncStub
    from outrelay.lib.control.v1.fleet_pb2_grpc import FleetAsyncStub
    from outrelay.lib.control.v1.policy_pb2_grpc import PolicyAsyncStub
    from outrelay.lib.control.v1.registry_pb2_grpc import RegistryAsyncStub

T = TypeVar("T")

SNAPSHOT = ("outrelay-snapshot", "1")
ALL_TENANTS = ("outrelay-all-tenants", "1")
TIMEOUT = 10.0

AGENT_A = "outrelay://acme/agent/00000000-0000-4000-8000-00000000000a"
AGENT_B = "outrelay://acme/agent/00000000-0000-4000-8000-00000000000b"


@dataclass(frozen=True)
class Stubs:
    """The services behind one channel."""

    channel: grpc.aio.Channel
    registry: RegistryAsyncStub
    policy: PolicyAsyncStub
    audit: AuditAsyncStub
    fleet: FleetAsyncStub
    admin: AdminAsyncStub


@asynccontextmanager
async def stubs(
    target: str, *, credentials: Credentials | None = None, trust: Trust | None = None
) -> AsyncIterator[Stubs]:
    async with open_channel(target, credentials=credentials, trust=trust) as channel:
        yield Stubs(
            channel,
            RegistryStub(channel),
            PolicyStub(channel),
            AuditStub(channel),
            FleetStub(channel),
            AdminStub(channel),
        )


AsyncStubs = AbstractAsyncContextManager[Stubs]


@dataclass(frozen=True)
class LiveController:
    """A controller with all three listeners."""

    pki: TestPki
    options: ControllerOptions
    targets: dict[str, str]

    def calling(self, credentials: Credentials) -> AsyncStubs:
        """As the holder of a certificate."""
        return stubs(self.targets["tls"], credentials=credentials, trust=self.pki.trust)

    def as_relay(self, name: str = "r1", region: str = "local") -> AsyncStubs:
        return self.calling(self.pki.relay(region, name))

    def as_operator(self, tenant: str = "acme") -> AsyncStubs:
        return self.calling(self.pki.operator(tenant))

    def plaintext(self) -> AsyncStubs:
        return stubs(self.targets["plaintext"])

    def admin(self) -> AsyncStubs:
        return stubs(self.targets["admin"])


def options_for(directory: Path, pki: TestPki) -> ControllerOptions:
    files = save(pki.controller(), directory / "controller")
    ca = directory / "ca.pem"
    ca.write_bytes(pki.trust.pem)
    return ControllerOptions(
        listen=("127.0.0.1", 0),
        db=str(directory / "controller.db"),
        cert=files.cert,
        key=files.key,
        ca=ca,
        listen_plaintext=("127.0.0.1", 0),
        admin_socket=directory / "admin.sock",
    )


@asynccontextmanager
async def live_controller(
    directory: Path, pki: TestPki | None = None
) -> AsyncIterator[LiveController]:
    pki = pki or TestPki()
    options = options_for(directory, pki)
    async with serving(options) as targets:
        yield LiveController(pki, options, targets)


def registration(
    name: str = "db", agent: str = AGENT_A, relay: str = "r1", **more: object
) -> registry_pb2.RegisterServiceRequest:
    tenant = agent.split("/")[2]
    return registry_pb2.RegisterServiceRequest(
        tenant=tenant,
        service_name=name,
        agent_uri=agent,
        relay_id=relay,
        **more,  # type: ignore[arg-type]
    )


def relay_beat(name: str = "r1", **more: object) -> registry_pb2.UpsertRelayRequest:
    fields: dict[str, object] = {"id": name, "region": "local", "endpoint": "127.0.0.1:7443"}
    return registry_pb2.UpsertRelayRequest(**{**fields, **more})  # type: ignore[arg-type]


def policy_rule(tenant: str = "acme", **more: object) -> policy_pb2.PolicyRule:
    fields: dict[str, object] = {
        "tenant": tenant,
        "caller_pattern": "*",
        "target_pattern": "db",
        "decision": policy_pb2.DECISION_ALLOW,
    }
    return policy_pb2.PolicyRule(**{**fields, **more})  # type: ignore[arg-type]


LOST = "Internal error from Core"
"""What gRPC tells instead of a refusal that meets a request still being written: it takes the one
for the other (grpc/grpc#36066)."""


async def answer(call: Callable[[], Awaitable[T]]) -> T:
    """What the controller says to a call, made as often as it takes for gRPC to pass that on."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.details() != LOST:
                raise


@asynccontextmanager
async def refused(
    code: grpc.StatusCode, *texts: str
) -> AsyncIterator[pytest.ExceptionInfo[grpc.aio.AioRpcError]]:
    """The block's call fails with this code and a text that holds all of these."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        yield raised
    assert raised.value.code() is code, raised.value.details()
    details = raised.value.details() or ""
    assert all(text in details for text in texts), details

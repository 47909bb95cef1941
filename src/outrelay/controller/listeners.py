"""Where the controller can be called: TLS, the admin socket, plaintext.

Each listener is a gRPC server of its own with the same services behind it; what differs is
how it knows its callers (``authz``, ``admin_socket``).

Source: control-plane.md, "Who may do what"; commands.md, outrelay-controller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from outrelay.controller.admin_socket import (
    clear_socket,
    inner_directory,
    inner_socket,
    open_door,
    private_files,
)
from outrelay.controller.authz import PACKAGE, CallerOf
from outrelay.lib.checks import try_bind
from outrelay.lib.control.channel import MAX_MESSAGE
from outrelay.lib.control.v1.admin_pb2_grpc import AdminServicer, add_AdminServicer_to_server
from outrelay.lib.control.v1.audit_pb2_grpc import AuditServicer, add_AuditServicer_to_server
from outrelay.lib.control.v1.fleet_pb2_grpc import FleetServicer, add_FleetServicer_to_server
from outrelay.lib.control.v1.policy_pb2_grpc import PolicyServicer, add_PolicyServicer_to_server
from outrelay.lib.control.v1.registry_pb2_grpc import (
    RegistryServicer,
    add_RegistryServicer_to_server,
)
from outrelay.lib.errors import ConfigError
from outrelay.lib.tasks import spawn
from outrelay.lib.values import Address, address_text

GRACE = 2.0
"""Seconds that calls have to end when the controller stops."""

NAMES = tuple(f"{PACKAGE}.{name}" for name in ("Registry", "Policy", "Audit", "Fleet", "Admin"))

MAX_REQUEST = 16 * 1024 * 1024
"""Bytes of the largest request: ten thousand rules in one step."""

_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second controller on the port is an error, not a lottery
    ("grpc.max_receive_message_length", MAX_REQUEST),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    # What one caller may hold: a relay has a few watches open and some calls under way.
    ("grpc.max_concurrent_streams", 512),
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Finds out about relays that vanished without a word: their watches end.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),  # however quiet a watch is
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What every listener serves."""

    registry: RegistryServicer
    policy: PolicyServicer
    audit: AuditServicer
    fleet: FleetServicer
    admin: AdminServicer


class HealthServicer(Protocol):
    """What we use of the health service; its stubs know only the one for threads."""

    def set(
        self, service: str, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType
    ) -> Awaitable[None]:
        """Say how a service does."""

    def enter_graceful_shutdown(self) -> Awaitable[None]:
        """Say that none serves any longer."""


InterceptorFor: TypeAlias = "Callable[[CallerOf], grpc.aio.ServerInterceptor]"


class Listeners:
    """The servers of one controller; make them with ``open_listeners``."""

    def __init__(
        self, services: Services, interceptor_for: InterceptorFor, stack: AsyncExitStack
    ) -> None:
        self._stack = stack
        self._services = services
        self._interceptor_for = interceptor_for
        self._health: HealthServicer = health.aio.HealthServicer()
        self._servers: list[grpc.aio.Server] = []

    async def serve_tls(
        self, address: Address, secure: grpc.ServerCredentials, caller_of: CallerOf
    ) -> Address:
        """Serve callers with a certificate; the address, with the port the system chose."""
        server = self._server(caller_of)
        with _binding("--listen", address):
            port = server.add_secure_port(address_text(address), secure)
        await server.start()
        return address[0], port

    async def serve_plaintext(self, address: Address, caller_of: CallerOf) -> Address:
        """Serve whoever can connect; the address, with the port the system chose."""
        server = self._server(caller_of)
        with _binding("--listen-plaintext", address):
            port = server.add_insecure_port(address_text(address))
        await server.start()
        return address[0], port

    async def serve_socket(self, path: Path, caller_of: CallerOf) -> None:
        """Serve whoever can open the socket, which is nobody but our user and root."""
        clear_socket(path)
        self._stack.enter_context(inner_directory(path))
        server = self._server(caller_of)
        with private_files(), _binding("--admin-socket", str(path)):
            server.add_insecure_port(f"unix:{inner_socket(path)}")
        await server.start()
        await self._stack.enter_async_context(open_door(path))

    async def announce(self) -> None:
        """Tell health checks that everything is served."""
        for name in ("", *NAMES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Take no new calls, let those that run end within ``GRACE``, cut the rest."""
        await self._health.enter_graceful_shutdown()
        async with asyncio.TaskGroup() as group:
            for server in self._servers:
                spawn(group, server.stop(GRACE), name="listener: stop")

    def _server(self, caller_of: CallerOf) -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=[self._interceptor_for(caller_of)], options=_OPTIONS)
        add_RegistryServicer_to_server(self._services.registry, server)
        add_PolicyServicer_to_server(self._services.policy, server)
        add_AuditServicer_to_server(self._services.audit, server)
        add_FleetServicer_to_server(self._services.fleet, server)
        add_AdminServicer_to_server(self._services.admin, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            [*NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME], server
        )
        self._servers.append(server)
        return server


@asynccontextmanager
async def open_listeners(
    services: Services, interceptor_for: InterceptorFor
) -> AsyncIterator[Listeners]:
    """Servers that are closed in the end."""
    async with AsyncExitStack() as stack:
        listeners = Listeners(services, interceptor_for, stack)
        try:
            yield listeners
        finally:
            await listeners.close()


@contextmanager
def _binding(flag: str, where: Address | str) -> Iterator[None]:
    """Say which flag is at fault when gRPC, which does not say why, cannot listen."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(where, tuple):
            try_bind(flag, where, udp=False)  # says why
            where = address_text(where)
        fault = f"cannot listen on {where}"
        raise ConfigError(flag, fault, "the address is in use or is not this machine's") from error

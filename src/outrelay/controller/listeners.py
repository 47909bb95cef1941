"""Where the controller can be called: TLS, the admin socket, plaintext.

Each listener is a gRPC server of its own with the same services behind it; what differs is
how it knows its callers (``authz``). The admin socket exists with mode 0600 only: gRPC does
not tell the uid of a peer, so who may open the socket is decided by the file system.

Source: control-plane.md, "Who may do what"; commands.md, outrelay-controller.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from outrelay.controller.authz import PACKAGE, CallerOf
from outrelay.lib.control.channel import MAX_MESSAGE
from outrelay.lib.control.v1.audit_pb2_grpc import AuditServicer, add_AuditServicer_to_server
from outrelay.lib.control.v1.fleet_pb2_grpc import FleetServicer, add_FleetServicer_to_server
from outrelay.lib.control.v1.policy_pb2_grpc import PolicyServicer, add_PolicyServicer_to_server
from outrelay.lib.control.v1.registry_pb2_grpc import (
    RegistryServicer,
    add_RegistryServicer_to_server,
)
from outrelay.lib.errors import ConfigError
from outrelay.lib.identity.certs import Credentials, Trust
from outrelay.lib.tasks import spawn
from outrelay.lib.values import Address, address_text

GRACE = 2.0
"""Seconds that calls have to end when the controller stops."""

NAMES = tuple(f"{PACKAGE}.{name}" for name in ("Registry", "Policy", "Audit", "Fleet"))

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

    def __init__(self, services: Services, interceptor_for: InterceptorFor) -> None:
        self._services = services
        self._interceptor_for = interceptor_for
        self._health: HealthServicer = health.aio.HealthServicer()
        self._servers: list[grpc.aio.Server] = []

    async def serve_tls(
        self, address: Address, credentials: Credentials, trust: Trust, caller_of: CallerOf
    ) -> Address:
        """Serve callers with a certificate; the address, with the port the system chose."""
        secure = grpc.ssl_server_credentials(
            [(credentials.private_key_pem, credentials.certificate_pem)],
            root_certificates=trust.pem,
            require_client_auth=True,
        )
        server = self._server(caller_of)
        with _binding("--listen", address_text(address)):
            port = server.add_secure_port(address_text(address), secure)
        await server.start()
        return address[0], port

    async def serve_plaintext(self, address: Address, caller_of: CallerOf) -> Address:
        """Serve whoever can connect; the address, with the port the system chose."""
        server = self._server(caller_of)
        with _binding("--listen-plaintext", address_text(address)):
            port = server.add_insecure_port(address_text(address))
        await server.start()
        return address[0], port

    async def serve_socket(self, path: Path, caller_of: CallerOf) -> None:
        """Serve whoever can open the socket, which is nobody but our user and root."""
        clear_socket(path)
        server = self._server(caller_of)
        with _private_files(), _binding("--admin-socket", str(path)):
            server.add_insecure_port(f"unix:{path}")
        await server.start()

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
    listeners = Listeners(services, interceptor_for)
    try:
        yield listeners
    finally:
        await listeners.close()


LONGEST_SOCKET_PATH = 107
"""Bytes of a path that fit into a socket's address."""


def clear_socket(path: Path) -> None:
    """Make sure that a socket can be made at ``path``: remove one that nobody serves.

    Raises:
        ConfigError: It cannot: there is something else, another controller, or no directory.
    """
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise _socket_fault(path, f"is longer than {LONGEST_SOCKET_PATH} bytes")
    if not path.parent.is_dir():
        raise _socket_fault(path, "is in a directory that does not exist; make it first")
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise _socket_fault(path, "exists and is no socket; remove it or give another path")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(os.fspath(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink()
        return
    except OSError as error:
        raise _socket_fault(path, f"cannot be used: {error.strerror}") from error
    raise _socket_fault(path, "is served by another controller; stop it or give another path")


def _socket_fault(path: Path, fault: str) -> ConfigError:
    return ConfigError("--admin-socket", f"{path} {fault}")


@contextmanager
def _private_files() -> Iterator[None]:
    """Files made meanwhile are for our user alone from the start."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def _binding(flag: str, where: str) -> Iterator[None]:
    """Say which flag is at fault when gRPC, which does not say why, cannot listen."""
    try:
        yield
    except RuntimeError as error:
        fault = f"cannot listen on {where}; the address is in use or is not this machine's"
        raise ConfigError(flag, fault) from error

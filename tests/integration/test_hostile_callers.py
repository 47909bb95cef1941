"""Garbage and greed at the controller's port, while an operator's calls are answered."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from asyncio import StreamReader, StreamWriter, TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial

import grpc.aio
import pytest
import pytest_asyncio

from outrelay.lib.control.channel import CONTROLLER_NAME, open_channel
from outrelay.lib.control.v1 import policy_pb2 as policy
from outrelay.lib.control.v1.policy_pb2_grpc import PolicyStub
from outrelay.lib.identity.certs import load_credentials, load_trust
from outrelay.lib.tasks import beside
from tests.integration.attackers import GROWTH, Bystander, unnoticed
from tests.integration.peers import MIB
from tests.integration.world import ALLOWED, ANY_PORT, IMPATIENT, TENANT, World, outrelay_world
from tests.support.patience import PATIENCE

pytestmark = pytest.mark.asyncio(loop_scope="session")

ADMIN = "admin.sock"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A world of its own: what attacks leave is nobody else's."""
    directory = tmp_path_factory.mktemp("hostile")
    doors = ("--listen-plaintext", ANY_PORT, "--admin-socket", directory / ADMIN)
    async with outrelay_world(directory, controller_flags=doors, agent_flags=IMPATIENT) as world:
        yield world


@asynccontextmanager
async def caller(world: World) -> AsyncIterator[Bystander]:
    """An operator whose calls are answered for the length of the ``with``."""
    somebody = Bystander()
    channel = open_channel(
        await world.controller_address(),
        credentials=load_credentials(world.pki / "operator.pem", world.pki / "operator.key"),
        trust=load_trust(world.pki / "ca.pem"),
    )

    async def ask() -> None:
        request = policy.ListPoliciesRequest(tenant=TENANT)
        while True:
            answer = await PolicyStub(channel).ListPolicies(request, timeout=PATIENCE)
            assert [rule.target_pattern for rule in answer.rules] == [ALLOWED]
            somebody.answered()
            await asyncio.sleep(0.005)

    async with channel, beside(ask(), name="caller"):
        await somebody.go_on()
        yield somebody
        await somebody.go_on()


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes(3) + b"\x04\x00" + bytes(4)
NOISE = random.Random(3).randbytes(4_000)

GARBAGE = {
    "noise": NOISE,
    "zeros": bytes(4_000),
    "HTTP/1": b"GET /outrelay.control.v1.Policy/ListPolicies HTTP/1.1\r\nHost: x\r\n\r\n",
    "a preface and noise": PREFACE + NOISE,
    "a preface and no settings": PREFACE + b"\x00\x00\x04\x08\x00" + bytes(8),
    "settings and noise": PREFACE + SETTINGS + NOISE,
    "a frame that is too long": PREFACE + SETTINGS + b"\xff\xff\xff\x00\x00" + bytes(4) + NOISE,
    "headers that are none": PREFACE + SETTINGS
    + b"\x00\x00\x10\x01\x04\x00\x00\x00\x01" + NOISE[:16],
    "endless headers": PREFACE + SETTINGS
    + b"\x00\x10\x00\x01\x00\x00\x00\x00\x01" + bytes(4096)
    + 50 * (b"\x00\x10\x00\x09\x00\x00\x00\x00\x01" + bytes(4096)),
    "resets": PREFACE + SETTINGS
    + b"".join(b"\x00\x00\x04\x03\x00" + n.to_bytes(4, "big") + bytes(4) for n in range(1, 999, 2)),
    "pings": PREFACE + SETTINGS + 5_000 * (b"\x00\x00\x08\x06\x00" + bytes(12)),
}  # fmt: skip


def tls(world: World, holder: str = "") -> ssl.SSLContext:
    """How a client of the controller begins; with a holder's certificate, if any."""
    context = ssl.create_default_context(cafile=world.pki / "ca.pem")
    context.set_alpn_protocols(["h2"])
    if holder:
        context.load_cert_chain(world.pki / f"{holder}.pem", world.pki / f"{holder}.key")
    return context


Door = Callable[[], Awaitable[tuple[StreamReader, StreamWriter]]]
"""Connects to the controller, one way or another."""


async def doors(world: World) -> list[Door]:
    """All ways there are: as nobody, as somebody, as whoever is on the machine."""
    host, port = await world.controller.listening()
    connect = partial(asyncio.open_connection, host, port)
    contexts = tls(world), tls(world, "agent-a"), tls(world, "operator")
    admin = world.directory / ADMIN
    assert await asyncio.to_thread(admin.is_socket)
    return [
        connect,
        *(partial(connect, ssl=each, server_hostname=CONTROLLER_NAME) for each in contexts),
        partial(asyncio.open_connection, *await world.controller.listening(listener="plaintext")),
        partial(asyncio.open_unix_connection, admin),
    ]


async def throw(garbage: bytes, door: Door) -> None:
    """Send garbage to the controller and hear it out."""
    with suppress(OSError):
        reader, writer = await door()
        try:
            writer.write(garbage)
            async with asyncio.timeout(0.5):  # some of it leaves gRPC waiting for more
                while await reader.read(65536):
                    pass
        except TimeoutError:
            pass
        finally:
            writer.transport.abort()


async def test_garbage_at_the_controller(world: World) -> None:
    async with unnoticed(world), caller(world) as somebody:
        for door in await doors(world):
            async with TaskGroup() as group:
                for garbage in GARBAGE.values():
                    group.create_task(throw(garbage, door))
            await somebody.go_on()


@pytest.mark.parametrize("holder", ["agent-a", "operator"])
async def test_calls_that_are_too_much_for_the_controller(world: World, holder: str) -> None:
    credentials = load_credentials(world.pki / f"{holder}.pem", world.pki / f"{holder}.key")
    trust = load_trust(world.pki / "ca.pem")
    channel = open_channel(await world.controller_address(), credentials=credentials, trust=trust)
    huge = policy.PolicyRule(tenant=TENANT, target_pattern="x" * (3 * MIB))
    async with unnoticed(world), caller(world), channel:
        stub = PolicyStub(channel)
        for metadata in ([("noise", "x" * MIB)], [(f"key-{n}", "x" * 100) for n in range(1000)]):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stub.ListPolicies(
                    policy.ListPoliciesRequest(), metadata=metadata, timeout=PATIENCE
                )
            assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for _ in range(20):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.AddPolicy(policy.AddPolicyRequest(rule=huge), timeout=PATIENCE)


async def test_1000_idle_connections_to_the_controller(world: World) -> None:
    async with unnoticed(world, growth=2 * GROWTH), caller(world) as somebody:
        with ExitStack() as connections:
            for _ in range(1_000):
                connection = socket.create_connection(await world.controller.listening())
                connections.enter_context(connection)
            await somebody.go_on(50)
        await somebody.go_on(50)

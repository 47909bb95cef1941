"""Networks that block UDP, from the start or in the middle: an agent finds a way in, and back."""

from __future__ import annotations

import asyncio
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.peers import Backend, echo_until_cut, ping
from tests.integration.world import write_pki
from tests.netlab.lab import Host, Lab, Router
from tests.support.processes import Program, Programs, run

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(180)]

SERVICE = "echo"
PORT = 9000
PROBED = 60.0
"""Seconds in which an agent on tcp has tried quic again: 30, and some to connect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """Three hosts around a router: the hub with controller and relay, a provider, a consumer."""

    wan: Router
    hub: Host
    provider: Host
    consumer: Host
    programs: Programs
    pki: Path

    async def agent(self, host: Host, holder: str, *flags: str) -> Program:
        """An agent of one of the hosts, which knows both ways to the relay."""
        ways = (
            *("--relay", f"{self.hub.address}:7443"),
            *("--relay-tcp", f"{self.hub.address}:443"),
        )
        return await self.programs.start(
            "outrelay-agent", *ways, *self.holder(holder), *flags, within=host.command
        )

    def holder(self, name: str) -> tuple[str | Path, ...]:
        """Credentials of one of dev-pki's holders."""
        own = ("--cert", self.pki / f"{name}.pem", "--key", self.pki / f"{name}.key")
        return (*own, "--ca", self.pki / "ca.pem")

    async def consuming(self) -> Program:
        """The agent beside the application."""
        return await self.agent(
            self.consumer, "agent-a", f"--consume={SERVICE}@{self.consumer.address}:{PORT}"
        )

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
        """An application's call."""
        sock = self.consumer.tcp_socket()
        await asyncio.get_running_loop().sock_connect(sock, (self.consumer.address, PORT))
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def is_served(self) -> None:
        """Return once a call has gone through and been answered."""
        async with self.calling() as call:
            await ping(*call)


@asynccontextmanager
async def network(lab: Lab, folder: Path) -> AsyncIterator[Net]:
    """Everything but the consumer's agent."""
    pki = folder / "pki"
    write_pki(pki)
    wan = lab.router("wan")
    hub, provider, consumer = (lab.host(name, wan) for name in ("hub", "provider", "consumer"))
    with provider.inside():
        listening = socket.create_server((provider.address, PORT))
    async with (
        Backend.start(listening) as backend,
        backend.serving(echo_until_cut),
        Programs() as programs,
    ):
        net = Net(
            wan=wan, hub=hub, provider=provider, consumer=consumer, programs=programs, pki=pki
        )
        controller = f"{hub.address}:7444"
        ready = await programs.start(
            "outrelay-controller",
            *("--listen", controller, "--db", folder / "controller.db"),
            *net.holder("controller"),
            within=hub.command,
        )
        await ready.event("ready")
        rule = ("policy", "add", "--caller", "*", "--target", SERVICE, "--decision", "allow")
        operator = ("--controller", controller, *net.holder("operator"))
        done = await run("outrelay-cli", *operator, *rule, within=hub.command)
        assert done.code == 0, done
        relay = await programs.start(
            "outrelay-relay",
            *("--listen", f"{hub.address}:7443", "--listen-tcp", f"{hub.address}:443"),
            *("--controller", controller),
            *net.holder("relay"),
            within=hub.command,
        )
        await relay.event("ready")
        expose = f"--expose={SERVICE}={provider.address}:{PORT}"
        await (await net.agent(provider, "agent-b", expose)).event("ready")
        yield net


async def test_udp_is_blocked_and_then_passes(lab: Lab, tmp_path: Path) -> None:
    async with network(lab, tmp_path) as net:
        net.wan.drop_udp(net.consumer)
        agent = await net.consuming()
        await agent.event("connected", carrier="tcp")
        await agent.event("ready")
        await net.is_served()

        async with net.calling() as old:
            await ping(*old)
            since = agent.mark()
            net.wan.pass_all()
            await agent.event("connected", carrier="quic", since=since, timeout=PROBED)
            await ping(*old)  # what runs finishes where it is
            await net.is_served()


async def test_udp_dies_in_the_middle(lab: Lab, tmp_path: Path) -> None:
    async with network(lab, tmp_path) as net:
        agent = await net.consuming()
        await agent.event("connected", carrier="quic")
        await net.is_served()

        since = agent.mark()
        net.wan.drop_udp(net.consumer)
        await agent.event("connected", carrier="tcp", since=since, timeout=30)
        await net.is_served()

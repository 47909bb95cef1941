"""OutRelay in a lab: three hosts around a router, each with a program or two."""

from __future__ import annotations

import asyncio
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.peers import Backend, Handler, echo_until_cut, ping
from tests.integration.world import write_pki
from tests.netlab.lab import Host, Lab, Router
from tests.support.processes import Program, Programs, run

SERVICE = "echo"
PORT = 9000
HERE = "127.0.0.1"
"""Where the application finds its agent, whatever address their host has."""

CARRIERS = ("quic", "tcp")


@dataclass(kw_only=True)
class Net:
    """Three hosts around a router: the hub with controller and relay, a provider, a consumer."""

    wan: Router
    hub: Host
    provider: Host
    consumer: Host
    programs: Programs
    pki: Path
    serving: Program = field(init=False)
    """The agent beside the backend."""

    async def agent(
        self, host: Host, holder: str, *flags: str, carriers: Sequence[str] = CARRIERS
    ) -> Program:
        """An agent of one of the hosts.

        Args:
            host: Which one.
            holder: Whose certificate it has.
            flags: What it is told beside what it needs.
            carriers: The ways to the relay that it knows.
        """
        ways = {
            "quic": f"--relay={self.hub.address}:7443",
            "tcp": f"--relay-tcp={self.hub.address}:443",
        }
        known = [ways[each] for each in carriers]
        return await self.programs.start(
            "outrelay-agent", *known, *self.holder(holder), *flags, within=host.command
        )

    def holder(self, name: str) -> tuple[str | Path, ...]:
        """Credentials of one of dev-pki's holders."""
        own = ("--cert", self.pki / f"{name}.pem", "--key", self.pki / f"{name}.key")
        return (*own, "--ca", self.pki / "ca.pem")

    async def consuming(self, carriers: Sequence[str] = CARRIERS) -> Program:
        """The agent beside the application."""
        consume = f"--consume={SERVICE}@{HERE}:{PORT}"
        return await self.agent(self.consumer, "agent-a", consume, carriers=carriers)

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
        """An application's call."""
        sock = self.consumer.tcp_socket()
        await asyncio.get_running_loop().sock_connect(sock, (HERE, PORT))
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
async def network(
    lab: Lab, folder: Path, handler: Handler = echo_until_cut, *, passes_udp: bool = True
) -> AsyncIterator[Net]:
    """Everything but the consumer's agent.

    Args:
        lab: An empty one.
        folder: The same.
        handler: Serves the backend's connections.
        passes_udp: Whether the agents' hosts may send and get UDP.
    """
    pki = folder / "pki"
    write_pki(pki)
    wan = lab.router("wan")
    hub, provider, consumer = (lab.host(name, wan) for name in ("hub", "provider", "consumer"))
    for host in () if passes_udp else (provider, consumer):
        wan.drop_udp(host)
    with provider.inside():
        listening = socket.create_server((provider.address, PORT))
    async with (
        Backend.start(listening) as backend,
        backend.serving(handler),
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
        net.serving = await net.agent(provider, "agent-b", expose)
        await net.serving.event("ready")
        yield net

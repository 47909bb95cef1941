"""The world of the black-box suite: OutRelay's own processes, and what stands around them.

A *world* is a controller, a relay, a provider's and a consumer's agent, started by their
console scripts with certificates from dev-pki, on ports the system chose. The provider
exposes the services below; the consumer listens for each of them, at ``world.at[name]``.

Tests see of it what people see: sockets, log lines, exit codes and ``outrelay-cli``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from outrelay.lib.identity.certs import Credentials, Trust, load_trust
from outrelay.lib.identity.issue import Authority
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.values import Address, address_text
from outrelay.tools import dev_pki
from tests.integration.peers import Backend, unused_port, web_server
from tests.support.pki import agent_identity, save
from tests.support.processes import ENGINE, Output, Program, Programs, run

TENANT = "acme"

APP = "shop-app"
"""Allowed; its backend is ``world.backend``."""
WEB = "shop-web"
"""Allowed; its backend is a web server."""
DEAD = "shop-dead"
"""Allowed; nothing listens where its backend should be."""
GHOST = "shop-ghost"
"""Allowed, but nobody exposes it."""
SECRET = "vault"
"""Exposed, with the same backend as APP, but no rule allows it."""

ALLOWED = "shop-*"
CONSUMED = (APP, WEB, DEAD, GHOST, SECRET)
ANY_PORT = "127.0.0.1:0"
CONSUMER, PROVIDER = "agent-a", "agent-b"
HOUR = timedelta(hours=1)
IMPATIENT = ("--resume-deadline=2s",)
"""Flags of agents that soon know that the far agent was killed: it might come back."""


class Carriers(NamedTuple):
    """What agents speak to a relay.

    Args:
        consumer: ``quic`` or ``tcp``; also of agents that are neither.
        provider: The same.
        engine: The packet engine of ``quic``, at all of them.
    """

    consumer: str
    provider: str
    engine: str = ENGINE

    @classmethod
    def parse(cls, text: str) -> Carriers:
        """Those of ``tcp`` (both), of ``tcp-quic`` (the consumer's first), or of ``native``."""
        if text == "native":
            return cls("quic", "quic", "native")
        consumer, _, provider = text.partition("-")
        return cls(consumer, provider or consumer)

    @property
    def has_tcp(self) -> bool:
        """Whether somebody here uses TCP."""
        return "tcp" in (self.consumer, self.provider)


QUIC = Carriers("quic", "quic")


@dataclass(kw_only=True, repr=False)
class World:
    """One deployment; ``outrelay_world`` makes it."""

    programs: Programs
    directory: Path
    backend: Backend
    web: Address
    carriers: Carriers = QUIC
    """What the agents speak to the relay."""
    relay_flags: Sequence[str | Path] = ()
    """What the relay is told beside what it needs."""
    controller_flags: Sequence[str | Path] = ()
    """What the controller is."""
    agent_flags: Sequence[str] = ()
    """What agents are."""
    at: dict[str, Address] = field(default_factory=dict)
    """Where the consumer listens, by service."""

    controller: Program = field(init=False)
    relay: Program = field(init=False)
    provider: Program = field(init=False)
    consumer: Program = field(init=False)

    @property
    def pki(self) -> Path:
        """The folder dev-pki wrote."""
        return self.directory / "pki"

    @cached_property
    def trust(self) -> Trust:
        """The CA of everybody here."""
        return load_trust(self.pki / "ca.pem")

    def issue(
        self, identity: Identity, *, lifetime: timedelta = HOUR, name: str = ""
    ) -> Credentials:
        """Credentials of somebody dev-pki knows nothing of, from the world's CA.

        Args:
            identity: Whose.
            lifetime: How long they last.
            name: The holder's, to be known by from now on; empty: no files are written.
        """
        key = load_pem_private_key((self.pki / "ca.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        authority = Authority(certificate=self.trust.certificates[0], private_key=key)
        credentials = authority.credentials(identity, now=datetime.now(UTC), lifetime=lifetime)
        if name:
            save(credentials, self.pki / name)
        return credentials

    def credentials(
        self, name: str, *, pki: Path | None = None, ca: Path | None = None
    ) -> list[str | Path]:
        """``--cert``, ``--key`` and ``--ca`` of a holder.

        Args:
            name: The holder, as dev-pki names it.
            pki: Another folder to take its certificate from.
            ca: Another folder to take the CA from.
        """
        folder = pki or self.pki
        return [
            *("--cert", folder / f"{name}.pem"),
            *("--key", folder / f"{name}.key"),
            *("--ca", (ca or self.pki) / "ca.pem"),
        ]

    async def controller_address(self) -> str:
        """Where the controller listens."""
        return address_text(await self.controller.listening())

    async def relay_address(self) -> str:
        """Where the relay listens over QUIC."""
        return address_text(await self.relay.listening(carrier="quic"))

    async def door(self, holder: str = CONSUMER, *, relay: Program | None = None) -> str:
        """Where an agent finds a relay, over the carrier it speaks."""
        listening = (relay or self.relay).listening(carrier=self._carrier(holder))
        return address_text(await listening)

    def _carrier(self, holder: str) -> str:
        return self.carriers.provider if holder == PROVIDER else self.carriers.consumer

    async def start_controller(self, listen: str = "") -> None:
        """Start the controller, where nothing listens or where it was before."""
        listen = listen or address_text(unused_port())
        self.controller = await self.programs.start(
            "outrelay-controller",
            *("--listen", listen, "--db", self.directory / "controller.db"),
            *self.credentials("controller"),
            *self.controller_flags,
        )
        await self.controller.event("ready")

    async def start_relay(self, listen: str = ANY_PORT, listen_tcp: str = ANY_PORT) -> None:
        """Start the relay.

        Args:
            listen: Where it listens over QUIC.
            listen_tcp: Where it does over TCP, if agents here use that.
        """
        self.relay = await self.programs.start(
            "outrelay-relay",
            *("--listen", listen, "--controller", await self.controller_address()),
            *(("--listen-tcp", listen_tcp) if self.carriers.has_tcp else ()),
            *self.credentials("relay"),
            *self.relay_flags,
        )
        await self.relay.event("ready")
        await self.relay.event("policy loaded")

    async def restart_relay(self) -> None:
        """Start it anew, where it was."""
        before = self.relay
        tcp = await before.listening(carrier="tcp") if self.carriers.has_tcp else None
        await self.start_relay(
            address_text(await before.listening(carrier="quic")),
            address_text(tcp) if tcp else ANY_PORT,
        )

    async def start_other_relay(self, name: str, *flags: str) -> Program:
        """One more relay, of another certificate; its agents are all its own.

        Args:
            name: Its own, in the world.
            flags: What it is told beside what it needs.
        """
        self.issue(Identity(realm="local", role=Role.RELAY, name=name), name=name)
        relay = await self.programs.start(
            "outrelay-relay",
            *("--listen", ANY_PORT, "--listen-tcp", ANY_PORT),
            *("--controller", await self.controller_address()),
            *self.credentials(name),
            *flags,
        )
        await relay.event("ready")
        await relay.event("policy loaded")
        return relay

    async def start_provider(self, *flags: str) -> None:
        """Start the agent beside the backend."""
        app = self.backend.address
        targets = {APP: app, SECRET: app, WEB: self.web, DEAD: unused_port()}
        expose = [f"--expose={name}={address_text(to)}" for name, to in targets.items()]
        self.provider = await self.start_agent(PROVIDER, *expose, *flags)
        await self.provider.event("ready")

    async def start_consumer(self, *flags: str) -> None:
        """Start the agent beside the applications."""
        consume = [f"--consume={name}@{ANY_PORT}" for name in CONSUMED]
        self.consumer = await self.start_agent(CONSUMER, *consume, *flags)
        await self.consumer.event("ready")
        for name in CONSUMED:
            self.at[name] = await self.consumer.listening(service=name)

    async def start_agent(
        self,
        holder: str,
        *flags: str,
        pki: Path | None = None,
        ca: Path | None = None,
        relay: Program | None = None,
    ) -> Program:
        """Start an agent with a holder's credentials; it need not become ready."""
        flag = "--relay-tcp" if self._carrier(holder) == "tcp" else "--relay"
        return await self.programs.start(
            "outrelay-agent",
            *(flag, await self.door(holder, relay=relay)),
            *self.credentials(holder, pki=pki, ca=ca),
            *self.agent_flags,
            *flags,
        )

    async def start_stranger(self, *flags: str) -> tuple[Program, Identity]:
        """An agent that dev-pki knows nothing of, once it is ready; and who it is."""
        identity = agent_identity(TENANT)
        self.issue(identity, name=identity.name)
        agent = await self.start_agent(identity.name, *flags)
        await agent.event("ready")
        return agent, identity

    async def cli(self, *args: str, holder: str = "operator", pki: Path | None = None) -> Output:
        """Run ``outrelay-cli`` with a holder's credentials."""
        controller = ("--controller", await self.controller_address())
        return await run("outrelay-cli", *controller, *self.credentials(holder, pki=pki), *args)

    async def allow(self, service: str, *, holder: str = "operator") -> str:
        """Let every agent of a tenant call a service, or those of a pattern; the rule's id.

        Args:
            service: Its name, or the pattern.
            holder: The operator who says so, of his own tenant.
        """
        rule = ("policy", "add", "--caller", "*", "--target", service, "--decision", "allow")
        done = await self.cli(*rule, holder=holder)
        assert done.code == 0, done
        return done.stdout.strip()


@asynccontextmanager
async def outrelay_world(
    directory: Path,
    *relay_flags: str | Path,
    controller_flags: Sequence[str | Path] = (),
    agent_flags: Sequence[str] = (),
    carriers: Carriers = QUIC,
) -> AsyncIterator[World]:
    """A world that is ready, gone after the ``with``.

    Args:
        directory: An empty one.
        relay_flags: What the relay is told beside what it needs.
        controller_flags: What the controller is.
        agent_flags: What the agents are.
        carriers: What they speak to the relay.
    """
    write_pki(directory / "pki")
    with web_server() as web:
        async with Backend.start() as backend, Programs(carriers.engine) as programs:
            world = World(
                programs=programs,
                directory=directory,
                backend=backend,
                web=web,
                relay_flags=relay_flags,
                controller_flags=controller_flags,
                agent_flags=agent_flags,
                carriers=carriers,
            )
            await world.start_controller()
            await world.allow(ALLOWED)
            await world.start_relay()
            await asyncio.gather(world.start_provider(), world.start_consumer())
            yield world
            # The relay has something to tell the controller at the end.
            await asyncio.gather(*(each.stop() for each in (world.consumer, world.provider)))
            await world.relay.stop()


def write_pki(folder: Path) -> Mapping[str, str]:
    """Certificates of a CA of their own; the holders' identities by name."""
    pki = dev_pki.create(
        tenant=TENANT, relay_id="r1", now=datetime.now(UTC), lifetime=timedelta(days=1)
    )
    dev_pki.write(pki, folder, namespace="outrelay")
    return {name: credentials.identity.uri for name, credentials in pki.holders.items()}

"""The routes a load's bytes can take: through OutRelay over each carrier, and past it.

    quic     load -> consumer's agent -> relay -> provider's agent -> backend, over QUIC
    tcp      the same over TLS and yamux on TCP, another deployment of its own
    chain    load -> stunnel -> HAProxy -> stunnel -> backend, where they are installed
    direct   load -> backend

Every route has processes of its own, so that each is charged for what it carried.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from outrelay.lib.values import Address
from outrelay.tools.bench import chain
from outrelay.tools.bench.scenarios import CHAIN, DIRECT, QUIC, TCP
from outrelay.tools.deployment import PKI, TENANT, Carrier, Deployment

LOAD = (sys.executable, "-m", "outrelay.tools.bench.load")
SERVICE = "load"
"""Leads to the load's backend."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One way from the load to its backend.

    Args:
        name: ``quic``, ``tcp``, ``chain`` or ``direct``.
        address: Where the load connects.
        pids: Its processes: ``consumer``, ``relay``, ``provider`` and what else there is.
    """

    name: str
    address: Address
    pids: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """All routes of one run.

    Args:
        routes: To measure over.
        backend: The backend's pid.
        deployment: OutRelay over QUIC, for the trials.
        services: Where its consumer listens for the further services.
    """

    routes: tuple[Route, ...]
    backend: int
    deployment: Deployment
    services: Mapping[str, Address]

    @property
    def pids(self) -> list[int]:
        """Every process there is."""
        return [self.backend, *(pid for route in self.routes for pid in route.pids.values())]


@contextmanager
def routes(directory: Path, services: Mapping[str, Address], tell: Tell) -> Iterator[Routes]:
    """Start everything; it is gone after the ``with``.

    Args:
        directory: An empty one for certificates and databases.
        services: Further ones that OutRelay offers over QUIC, and where their backends are.
        tell: Gets a word on what is going on.

    Raises:
        ProgramFailedError: One of OutRelay's programs did not start.
        ChainFailedError: One of the chain's did not.
    """
    with ExitStack() as stack:
        load, address = stack.enter_context(backend())
        found: list[Route] = []
        for name, others in ((QUIC, services), (TCP, {})):
            tell(f"starting controller, relay and two agents on {name}")
            (own := directory / name).mkdir()
            deployment = stack.enter_context(Deployment(own, carrier=Carrier(name)))
            listening = start(deployment, {SERVICE: address, **others})
            pids = {program.name: program.pid for program in deployment.running}
            found.append(Route(name=name, address=listening[SERVICE], pids=pids))
            if name == QUIC:
                trials = (deployment, {other: listening[other] for other in others})
        if chain.missing():
            tell(f"without {CHAIN}: {' and '.join(chain.missing())} not installed")
        else:
            running = chain.chain(directory, directory / QUIC / PKI, address)
            made = stack.enter_context(running)
            found.append(Route(name=CHAIN, address=made.address, pids=made.pids))
        found.append(Route(name=DIRECT, address=address, pids={}))
        yield Routes(routes=tuple(found), backend=load, deployment=trials[0], services=trials[1])


def start(deployment: Deployment, backends: Mapping[str, Address]) -> Mapping[str, Address]:
    """Start everything; where the consumer listens for each service."""
    deployment.make_certificates()
    deployment.start_controller()
    deployment.cli(
        "policy", "add", "--tenant", TENANT,
        "--caller", "*", "--target", f"{SERVICE}*", "--decision", "allow",
    )  # fmt: skip
    deployment.start_relay()
    deployment.start_provider(backends)
    return deployment.start_consumer(backends)


@contextmanager
def backend(host: str = "127.0.0.1", within: Sequence[str] = ()) -> Iterator[tuple[int, Address]]:
    """The load's backend, its pid and where it listens, for the length of the ``with``.

    Args:
        host: Where it is to listen.
        within: What to put before its command.
    """
    with subprocess.Popen(
        [*within, *LOAD, "serve", host], stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        try:
            assert process.stdout is not None
            yield process.pid, (host, int(process.stdout.readline()))
        finally:
            process.kill()

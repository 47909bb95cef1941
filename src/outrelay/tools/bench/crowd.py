"""Many agents in one process, for what a relay spends on agents that do nothing.

They are whole agents, each with an identity, a certificate, a UDP socket and a QUIC
connection of its own, and one registered service; they only share an interpreter, because
300 processes of 54 MiB would need 16 GiB. To the relay nothing tells them from others.

    python -m outrelay.tools.bench.crowd PKI FOLDER RELAY COUNT

``PKI`` is a folder of dev-pki, whose CA key makes their certificates; those go to ``FOLDER``.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from asyncio import TaskGroup
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from outrelay.agent import app
from outrelay.agent.options import AgentOptions, Expose
from outrelay.lib import service
from outrelay.lib.identity.certs import load_trust
from outrelay.lib.identity.issue import Authority
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.tasks import spawn
from outrelay.lib.values import Address, parse_address
from outrelay.tools.deployment import TENANT

_NOWHERE = ("127.0.0.1", 9)
_PAUSE = 0.01
"""Seconds between the starts of two agents: it is not their arrival that is measured."""


def authority(pki: Path) -> Authority:
    """The CA of a folder of dev-pki."""
    key = load_pem_private_key((pki / "ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Authority(certificate=load_trust(pki / "ca.pem").certificates[0], private_key=key)


def agent(issuer: Authority, folder: Path, number: int, relay: Address) -> AgentOptions:
    """What the agent of a number is told; its certificate is made here."""
    holder = issuer.credentials(
        Identity(realm=TENANT, role=Role.AGENT, name=str(uuid.uuid4())),
        now=datetime.now(UTC),
        lifetime=timedelta(hours=1),
    )
    cert, key, ca = (folder / f"{number}.{kind}" for kind in ("pem", "key", "ca"))
    cert.write_bytes(holder.certificate_pem)
    key.write_bytes(holder.private_key_pem)
    ca.write_bytes(issuer.trust.pem)
    expose = Expose(service=f"idle-{number}", target=_NOWHERE)
    return AgentOptions(relays=(relay,), cert=cert, key=key, ca=ca, expose=(expose,))


async def run(pki: Path, folder: Path, relay: Address, count: int, stop: asyncio.Event) -> None:
    """Be ``count`` agents until ``stop`` is set."""
    issuer = authority(pki)
    async with TaskGroup() as group:
        for number in range(count):
            options = agent(issuer, folder, number, relay)
            spawn(group, app.run(options, stop), name=f"crowd: agent {number}")
            await asyncio.sleep(_PAUSE)


def main(arguments: Sequence[str]) -> None:
    """Run until a signal; logs go to standard error."""
    pki, folder, relay, count = arguments
    service.serve(
        "crowd",
        lambda stop: run(Path(pki), Path(folder), parse_address(relay), int(count), stop),
        log_format="json",
        log_level="warning",
    )


if __name__ == "__main__":
    main(sys.argv[1:])

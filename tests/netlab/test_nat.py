"""The doctor behind NATs of each kind, with one relay and with two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.integration.world import write_pki
from tests.netlab.lab import Host, Lab
from tests.support.processes import Programs, run

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(180)]

PORT = 7443


def holder(pki: Path, name: str) -> tuple[str | Path, ...]:
    own = ("--cert", pki / f"{name}.pem", "--key", pki / f"{name}.key")
    return (*own, "--ca", pki / "ca.pem")


async def nat_of(laptop: Host, relays: Sequence[Host], pki: Path) -> dict[str, str]:
    """What the doctor on the laptop says of the NAT."""
    addresses = ",".join(f"{each.address}:{PORT}" for each in relays)
    done = await run(
        *("outrelay-agent", "doctor", "--log-format", "json", "--relay", addresses),
        *holder(pki, "agent-a"),
        within=laptop.command,
    )
    assert done.code == 0, done
    found: list[dict[str, str]] = [json.loads(line) for line in done.stdout.splitlines()]
    (nat,) = (each for each in found if each["subject"] == "NAT (IPv4)")
    return nat


async def test_the_doctor_tells_which_kind_it_is(lab: Lab, tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    write_pki(pki)
    wan = lab.router("wan")
    laptop, *relays = (lab.host(name, wan) for name in ("laptop", "one", "two"))
    async with Programs() as programs:
        for each in relays:
            relay = await programs.start(
                "outrelay-relay",
                *("--listen", f"{each.address}:{PORT}", "--allow-all"),
                *holder(pki, "relay"),
                within=each.command,
            )
            await relay.event("ready")

        nat = await nat_of(laptop, relays, pki)
        assert (nat["result"], nat["text"][:5]) == ("ok", "none:")

        wan.translate(laptop)
        nat = await nat_of(laptop, relays, pki)
        assert nat["text"].startswith(f"endpoint-independent: {laptop.address}:")
        nat = await nat_of(laptop, relays[:1], pki)
        assert nat["text"].startswith(f"there is one: {laptop.address}:")
        assert "second relay" in nat["advice"]

        wan.translate(laptop, each=True)
        nat = await nat_of(laptop, relays, pki)
        assert nat["result"] == "warn"
        assert nat["text"].startswith(f"symmetric: {laptop.address}:")
        assert "direct paths" in nat["advice"]

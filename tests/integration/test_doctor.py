"""``outrelay-agent doctor`` as an operator runs it, against the processes it judges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from outrelay.lib.values import address_text
from tests.integration.peers import echo_until_cut, unused_port
from tests.integration.world import ANY_PORT, APP, DEAD, GHOST, SECRET, World, write_pki
from tests.support.processes import Output, run

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def doctor(world: World, *flags: str, relay: str = "") -> Output:
    """What it says of a relay, or of several, over the carrier that the world's agents speak."""
    relay = relay or await world.door()
    flag = "--relay-tcp" if world.carriers.consumer == "tcp" else "--relay"
    credentials = world.credentials("agent-a")
    return await run("outrelay-agent", "doctor", flag, relay, *credentials, *flags)


def _is_quic(world: World) -> bool:
    """Whether relays are asked what they see, which over TCP says nothing of UDP."""
    return world.carriers.consumer == "quic"


async def test_all_is_well(world: World) -> None:
    done = await doctor(world, f"--expose={APP}={address_text(world.backend.address)}")
    assert (done.code, done.stderr) == (0, ""), done.stdout
    lines = done.stdout.splitlines()
    seen = ["NAT (IPv4): none: relays see this host as it is"] * _is_quic(world)
    assert [line.split()[0] for line in lines] == ["ok"] * (4 + len(seen))
    assert [line.split()[1].rstrip(":") for line in lines if "NAT" not in line] == [
        "certificate",
        "relay",
        "clock",
        "backend",
    ]
    assert [line[6:] for line in lines if "NAT" in line] == seen


async def test_it_opens_services_when_it_is_told_to(world: World) -> None:
    wanted = [f"--consume={name}@{ANY_PORT}" for name in (APP, SECRET, GHOST, DEAD)]
    async with world.backend.serving(echo_until_cut):
        done = await doctor(world, "--open", "--log-format", "json", *wanted)
    assert done.code == 1
    found = {each["subject"]: each for each in map(json.loads, done.stdout.splitlines())}
    allowed = found[f"open {APP}"]
    assert (allowed["result"], allowed["advice"]) == ("ok", "")
    assert "takes the stream after" in allowed["text"]
    for name, code, advice in (
        (SECRET, "403", "policy add"),
        (GHOST, "404", "exposes it"),
        (DEAD, "502", "backend runs"),
    ):
        refused = found[f"open {name}"]
        assert refused["result"] == "fail"
        assert refused["text"].startswith(code)
        assert advice in refused["advice"]


async def test_a_relay_that_is_not_there_fails_with_advice(world: World) -> None:
    nobody = address_text(unused_port())
    done = await doctor(world, "--log-format", "json", relay=nobody)
    assert done.code == 1
    relay = next(
        found
        for found in map(json.loads, done.stdout.splitlines())
        if found["subject"].startswith("relay ")
    )
    assert relay["result"] == "fail"
    assert {"quic": "UDP", "tcp": "TCP"}[world.carriers.consumer] in relay["advice"]


async def test_one_relay_of_two_is_enough(world: World) -> None:
    both = f"{address_text(unused_port())},{await world.door()}"
    done = await doctor(world, relay=both)
    assert done.code == 0, done
    assert "warn  relay " in done.stdout


async def test_one_carrier_of_two_is_enough(world: World) -> None:
    """What is wrong with the other one is a warning, with what to do about it."""
    flag = "--relay" if world.carriers.consumer == "tcp" else "--relay-tcp"
    done = await doctor(world, flag, address_text(unused_port()))
    assert done.code == 0, done
    lines = [line for line in done.stdout.splitlines() if "NAT" not in line]
    assert [line.split()[0] for line in lines] in (
        ["ok", "warn", "->", "ok", "ok"],
        ["ok", "ok", "warn", "->", "ok"],
    )


async def test_a_certificate_that_the_relay_does_not_take_is_told_of(
    world: World, tmp_path: Path
) -> None:
    """By the doctor's own look at the files, and by what the relay says to them."""
    others = tmp_path / "pki"
    write_pki(others)
    flag = "--relay-tcp" if world.carriers.consumer == "tcp" else "--relay"
    done = await run(
        *("outrelay-agent", "doctor", flag, await world.door()),
        *world.credentials("agent-a", pki=others),
    )
    assert done.code == 1
    certificate, advice, relay, hint = done.stdout.splitlines()
    assert certificate.startswith("FAIL  certificate: does not lead to a CA we trust")
    assert "the CA of --ca" in advice
    assert relay.startswith("FAIL  relay ")
    assert "refused by the peer" in relay
    assert "--ca" in hint


async def test_a_file_that_is_missing_is_a_fault_of_the_configuration(world: World) -> None:
    done = await run(
        *("outrelay-agent", "doctor", "--relay", await world.relay_address()),
        *("--cert", "nowhere.pem", "--key", "nowhere.key", "--ca", world.pki / "ca.pem"),
    )
    assert done.code == 78
    assert "nowhere.pem" in done.stderr


async def test_it_leaves_the_running_agent_alone(world: World) -> None:
    since = world.consumer.mark()
    assert (await doctor(world)).code == 0
    assert world.consumer.seen("disconnected", since=since) == []

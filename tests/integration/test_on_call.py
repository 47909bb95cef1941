"""Somebody is on call at night: what is wrong is found with the doctor, correlate and the numbers.

Each test breaks one thing and then types what the page on troubleshooting has for it, and looks at
nothing else. ``on_the_page`` holds the page to what was looked for.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from outrelay.lib.values import address_text
from tests.integration.peers import answer_to, echo_until_cut, unused_port
from tests.integration.test_correlate import LOGS, call_refused, write_logs
from tests.integration.world import ANY_PORT, APP, DEAD, SECRET, World
from tests.support.asking import ask
from tests.support.pki import agent_identity
from tests.support.processes import Program, run

pytestmark = pytest.mark.asyncio(loop_scope="session")
CARRIERS = ("quic",)  # what the tools say of TCP is tested with each of them


PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
MINUTE = PAGE.read_text().partition("## In a minute\n")[2].partition("\n## ")[0]


def on_the_page(*words: str) -> None:
    """A row of the page tells of all of these."""
    assert any(all(word in row for word in words) for row in MINUTE.splitlines()), words


async def numbers(program: Program) -> Mapping[str, float]:
    """What it counts, by series."""
    text = (await ask(await program.listening(service="debug"), "/metrics")).text
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, value in pairs}


async def doctor(world: World, *flags: str | Path, holder: str = "agent-a") -> list[str]:
    """What is not well, each with what to do about it."""
    done = await run("outrelay-agent", "doctor", *world.credentials(holder), *flags)
    found = done.stdout.replace(ADVICE, " -> ").splitlines()
    return [each for each in found if not each.startswith("ok ")]


ADVICE = "\n      -> "


async def row(folder: Path, service: str) -> str:
    """The newest stream of a service, as correlate's table has it."""
    table = ("correlate", "--output", "table", "--since", "15m", *LOGS)
    done = await run(*table, cwd=folder, env={"COLUMNS": "200"})
    assert done.code == 0, done
    rows = [each.split() for each in done.stdout.splitlines()]
    return " ".join([each for each in rows if service in each][-1])


async def test_the_relay_is_down(own_world: World) -> None:
    world, at = own_world, await own_world.relay_address()
    await world.relay.stop(signal.SIGKILL)
    await world.consumer.event("disconnected")
    found = await numbers(world.consumer)
    assert found["outrelay_ready"] == 0
    assert found["outrelay_uplink_losses_total"] == 1
    said = await doctor(world, "--relay", at)
    (about,) = (each for each in said if at in each)
    assert about.startswith("FAIL  relay ")
    on_the_page("outrelay_ready", "outrelay_uplink_losses_total", "`FAIL relay")


async def test_a_rule_is_missing(world: World, tmp_path: Path) -> None:
    series = 'outrelay_policy_decisions_total{decision="deny"}'
    before = (await numbers(world.relay)).get(series, 0)
    stream_id = await call_refused(world, SECRET)
    await world.relay.event("stream refused", stream_id=stream_id)
    assert (await numbers(world.relay))[series] == before + 1
    write_logs(world, tmp_path)
    found = await row(tmp_path, SECRET)
    assert str(stream_id) in found
    assert "refused, relay 403 " in found
    relay = await world.relay_address()
    async with world.backend.serving(echo_until_cut):
        said = await doctor(world, "--relay", relay, "--open", f"--consume={SECRET}@{ANY_PORT}")
    (about,) = (each for each in said if each.startswith(f"FAIL  open {SECRET}: "))
    assert "outrelay-cli policy add " in about
    on_the_page(series, "`refused, relay`", "`FAIL open", "`outrelay-cli policy add`")


async def test_a_backend_is_down(world: World, tmp_path: Path) -> None:
    series = 'outrelay_provider_refusals_total{code="502"}'
    before = (await numbers(world.relay)).get(series, 0)
    stream_id = await call_refused(world, DEAD)
    await world.relay.event("stream refused", stream_id=stream_id)
    assert (await numbers(world.relay))[series] == before + 1
    write_logs(world, tmp_path)
    found = await row(tmp_path, DEAD)
    assert str(stream_id) in found
    assert "refused, provider 502 " in found
    relay, nobody = await world.relay_address(), address_text(unused_port())
    said = await doctor(world, "--relay", relay, f"--expose={DEAD}={nobody}", holder="agent-b")
    assert [each for each in said if each.startswith(f"FAIL  backend of {DEAD}: {nobody}")]
    on_the_page(series, "`refused, provider`", "`FAIL backend of")


async def test_a_certificate_has_ended(own_world: World) -> None:
    world = own_world
    identity = agent_identity("acme")
    world.issue(identity, lifetime=timedelta(seconds=20), name=identity.name)
    agent = await world.start_agent(identity.name)
    await agent.event("connected")
    ends = (await numbers(agent))["outrelay_certificate_not_after_timestamp_seconds"]
    line = await agent.event("disconnected", timeout=60)
    assert int(str(line["ts_unix_ms"])) / 1000 >= ends
    at = ("--relay", await world.relay_address())
    done = await run("outrelay-agent", "doctor", *at, *world.credentials(identity.name))
    assert done.code == 78
    assert f"{identity.name}.pem: expired at" in done.stderr
    on_the_page("outrelay_certificate_not_after_timestamp_seconds", "`expired at`")


async def test_udp_is_blocked(own_world: World) -> None:
    world = own_world
    relay = await world.start_other_relay("night")
    tcp = address_text(await relay.listening(carrier="tcp"))
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as nobody_answers:
        nobody_answers.bind(("127.0.0.1", 0))
        ways = ("--relay", address_text(nobody_answers.getsockname()), "--relay-tcp", tcp)
        identity = agent_identity("acme")
        world.issue(identity, name=identity.name)
        agent = await world.programs.start(
            "outrelay-agent", *ways, *world.credentials(identity.name)
        )
        await agent.event("connected", carrier="tcp")
        found = await numbers(agent)
        assert found['outrelay_connections{carrier="tcp",role="relay"}'] == 1
        said = await doctor(world, *ways, holder=identity.name)
    (about,) = said
    assert about.startswith("warn  relay ")
    assert "UDP" in about
    on_the_page('outrelay_connections{carrier="tcp",role="relay"}', "`warn relay")


async def test_nothing_is_wrong(world: World) -> None:
    async with world.backend.serving(echo_until_cut):
        assert await answer_to(world.at[APP], b"hello") == b"hello"
    assert (await numbers(world.consumer))["outrelay_ready"] == 1
    assert await doctor(world, "--relay", await world.relay_address()) == []

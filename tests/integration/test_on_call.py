"""Somebody is on call at night: what is wrong is found with the doctor, correlate and the numbers.

Each test breaks one thing and then looks at nothing else.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from outrelay.lib.values import address_text
from tests.integration.peers import answer_to, echo_until_cut, unused_port
from tests.integration.test_correlate import LOGS, call_refused, story, write_logs
from tests.integration.world import ANY_PORT, APP, DEAD, SECRET, World
from tests.support.asking import ask
from tests.support.pki import agent_identity
from tests.support.processes import Program, run

pytestmark = pytest.mark.asyncio(loop_scope="session")
CARRIERS = ("quic",)  # what the tools say of TCP is tested with each of them


async def numbers(program: Program) -> Mapping[str, float]:
    """What it counts, by series."""
    found = (await ask(await program.listening(service="debug"), "/debug/metrics")).json()
    assert isinstance(found, dict)
    return found


async def doctor(world: World, *flags: str | Path, holder: str = "agent-a") -> dict[str, str]:
    """What is not well, and what to do about it, by subject."""
    given = (*world.credentials(holder), *flags)
    done = await run("outrelay-agent", "doctor", "--log-format", "json", *given)
    return {
        each["subject"]: f"{each['result']}: {each['text']} -> {each['advice']}"
        for each in map(json.loads, done.stdout.splitlines())
        if each["result"] != "ok"
    }


async def test_the_relay_is_down(own_world: World) -> None:
    world, at = own_world, await own_world.relay_address()
    await world.relay.stop(signal.SIGKILL)
    await world.consumer.event("disconnected")
    found = await numbers(world.consumer)
    assert found["outrelay_ready"] == 0
    assert found["outrelay_uplink_losses_total"] == 1
    said = await doctor(world, "--relay", at)
    (about,) = (text for subject, text in said.items() if at in subject)
    assert about.startswith("fail: ")


async def test_a_rule_is_missing(world: World, tmp_path: Path) -> None:
    series = 'outrelay_policy_decisions_total{decision="deny"}'
    before = (await numbers(world.relay)).get(series, 0)
    stream_id = await call_refused(world, SECRET)
    await world.relay.event("stream refused", stream_id=stream_id)
    assert (await numbers(world.relay))[series] == before + 1
    write_logs(world, tmp_path)
    found = await story(tmp_path, stream_id, *LOGS)
    assert (found["stopped_at"], found["reason"][:3]) == ("relay", "403")
    relay = await world.relay_address()
    async with world.backend.serving(echo_until_cut):
        said = await doctor(world, "--relay", relay, "--open", f"--consume={SECRET}@{ANY_PORT}")
    assert "policy add" in said[f"open {SECRET}"]


async def test_a_backend_is_down(world: World, tmp_path: Path) -> None:
    series = 'outrelay_provider_refusals_total{code="502"}'
    before = (await numbers(world.relay)).get(series, 0)
    stream_id = await call_refused(world, DEAD)
    await world.relay.event("stream refused", stream_id=stream_id)
    assert (await numbers(world.relay))[series] == before + 1
    write_logs(world, tmp_path)
    found = await story(tmp_path, stream_id, *LOGS)
    assert (found["stopped_at"], found["reason"][:3]) == ("provider", "502")
    relay, nobody = await world.relay_address(), address_text(unused_port())
    said = await doctor(world, "--relay", relay, f"--expose={DEAD}={nobody}", holder="agent-b")
    assert [subject for subject in said if DEAD in subject or nobody in subject]


async def test_a_certificate_has_ended(own_world: World) -> None:
    world = own_world
    identity = agent_identity("acme")
    world.issue(identity, lifetime=timedelta(seconds=8), name=identity.name)
    agent = await world.start_agent(identity.name)
    await agent.event("connected")
    ends = (await numbers(agent))["outrelay_certificate_not_after_timestamp_seconds"]
    line = await agent.event("disconnected", timeout=60)
    assert int(str(line["ts_unix_ms"])) / 1000 >= ends
    at = ("--relay", await world.relay_address())
    done = await run("outrelay-agent", "doctor", *at, *world.credentials(identity.name))
    assert done.code == 78
    assert f"{identity.name}.pem: expired at" in done.stderr


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
        assert found['outrelay_connections{role="relay",carrier="tcp"}'] == 1
        said = await doctor(world, *ways, holder=identity.name)
    (about,) = said.values()
    assert about.startswith("warn: ")
    assert "UDP" in about


async def test_nothing_is_wrong(world: World) -> None:
    async with world.backend.serving(echo_until_cut):
        assert await answer_to(world.at[APP], b"hello") == b"hello"
    assert (await numbers(world.consumer))["outrelay_ready"] == 1
    assert await doctor(world, "--relay", await world.relay_address()) == {}

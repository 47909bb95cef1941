"""What is seen of running services from outside: probes, numbers, streams, configuration."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from outrelay.lib.values import address_text
from tests.integration.carriers import NATIVE
from tests.integration.peers import calling, echo, ping, unused_port
from tests.integration.world import APP, CONSUMER, World
from tests.support.asking import ask
from tests.support.processes import Program, run

pytestmark = pytest.mark.asyncio(loop_scope="session")

CARRIERS = ("quic", NATIVE)

Numbers = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def get(program: Program, path: str) -> Any:
    answer = await ask(await program.listening(service="debug"), path)
    assert answer.status == 200, answer
    return answer.json()


async def numbers(program: Program) -> Numbers:
    """What Prometheus would read."""
    answer = await ask(await program.listening(service="debug"), "/metrics")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def rise(before: Numbers, after: Numbers, name: str, **labels: str) -> float:
    key = (name, tuple(sorted(labels.items())))
    return after.get(key, 0) - before.get(key, 0)


async def test_every_service_is_alive_and_ready(world: World) -> None:
    for program in (world.controller, world.relay, world.provider, world.consumer):
        address = await program.listening(service="debug")
        for path in ("/healthz", "/readyz"):
            assert (await ask(address, path)).status == 200
        assert (await numbers(program))["outrelay_ready", ()] == 1


async def test_relay_and_agents_name_what_builds_their_packets(world: World) -> None:
    engine = world.carriers.engine
    for program in (world.relay, world.provider, world.consumer):
        await program.event("packet engine chosen", engine=engine)
        assert (await get(program, "/debug/status"))["quic_engine"] == engine
        counted = await numbers(program)
        assert counted["outrelay_quic_engine_info", (("engine", engine),)] == 1


async def test_a_call_is_counted_wherever_it_passes(world: World) -> None:
    programs = (world.consumer, world.relay, world.provider)
    before = [await numbers(each) for each in programs]
    async with world.backend.serving(echo), calling(world.at[APP]) as call:
        await ping(*call)
        shown = [(await get(each, "/debug/streams"))["streams"] for each in programs]
    for each in programs:
        await each.event("stream ended", stream_id=shown[0][-1]["stream_id"])
    after = [await numbers(each) for each in programs]

    assert {stream["stream_id"] for (*_, stream) in shown} == {shown[0][-1]["stream_id"]}
    for was, now in zip(before, after, strict=True):
        assert rise(was, now, "outrelay_streams_opened_total") == 1
        assert rise(was, now, "outrelay_streams_ended_total", result="closed") == 1
        for way in ("up", "down"):
            path = {"direction": way, "path": "relayed"}
            assert rise(was, now, "outrelay_stream_bytes_total", **path) > 0
    for was, now in list(zip(before, after, strict=True))[:2]:  # who waits for an open
        assert rise(was, now, "outrelay_stream_open_duration_seconds_count") == 1
    assert rise(before[1], after[1], "outrelay_policy_decisions_total", decision="allow") == 1
    looked_up = (
        rise(before[1], after[1], "outrelay_policy_cache_lookups_total", result=each)
        for each in ("hit", "miss")
    )
    assert sum(looked_up) >= 2


async def test_the_services_know_each_other(world: World) -> None:
    await world.controller.event("relay attached")
    controller, relay, agent = [
        await get(each, "/debug/status") for each in (world.controller, world.relay, world.provider)
    ]

    assert [each["relay_id"] for each in controller["relays"]] == [relay["relay_id"]]
    (session,) = agent["sessions"]
    assert session["relay"] == relay["identity"]
    (here,) = [each for each in relay["agents"] if each["agent"] == agent["identity"]]
    assert here["services"] == session["registered"]
    lag = await numbers(world.relay)
    for kind in ("policy", "directory", "fleet"):
        assert lag["outrelay_watch_lag_seconds", (("watch", kind),)] == 0
    rows = await numbers(world.controller)
    assert rows["outrelay_relays_attached", ()] == 1
    assert rows["outrelay_rows", (("table", "policies"),)] >= 0


async def test_a_refused_handshake_is_counted_at_both_ends_and_so_are_other_dials(
    world: World,
) -> None:
    """One relay is not of the name that is asked for, one is not there, one has no address."""
    before = await numbers(world.relay)
    relays = [await world.relay_address(), address_text(unused_port()), "relay.invalid:7443"]
    agent = await world.programs.start(
        "outrelay-agent",
        *("--relay", ",".join(relays), "--server-name", "elsewhere"),
        *world.credentials(CONSUMER),
    )
    await agent.event("no relay connected")
    counted = await numbers(agent)
    for reason in ("certificate", "unreachable", "name"):
        labels = (("carrier", "quic"), ("reason", reason))
        assert counted["outrelay_uplink_refusals_total", labels] >= 1
    assert counted["outrelay_uplink_connects_total", (("result", "failed"),)] >= 1
    assert await agent.stop() == 0
    after = await numbers(world.relay)
    assert rise(before, after, "outrelay_handshakes_refused_total", reason="peer") >= 1


async def test_nothing_secret_is_shown(world: World) -> None:
    for program in (world.controller, world.relay, world.provider):
        config = await get(program, "/debug/config")
        assert config["key"]["value"].endswith(".key")
        key = await asyncio.to_thread(_first_line, Path(config["key"]["value"]))
        address = await program.listening(service="debug")
        for path in ("/debug/config", "/debug/status", "/debug/tasks", "/metrics"):
            assert key not in (await ask(address, path)).text


def _first_line(key: Path) -> str:
    """Of what is in a key, below its heading."""
    return key.read_text().splitlines()[1]


async def test_a_relay_whose_controller_is_away_is_behind_and_one_without_is_not_ready(
    own_world: World,
) -> None:
    world = own_world
    await world.controller.stop()
    await world.relay.event("controller is away", follows="policy")
    behind = await numbers(world.relay)
    assert behind["outrelay_watch_lag_seconds", (("watch", "policy"),)] > 0
    assert behind["outrelay_ready", ()] == 1  # it goes on with what it knows

    relay = await world.programs.start(
        "outrelay-relay",
        *("--listen", "127.0.0.1:0", "--controller", await world.controller_address()),
        *world.credentials("relay"),
        *("--health-listen", "127.0.0.1:0"),
    )
    await relay.listening(carrier="quic")
    ready = await ask(await relay.listening(service="health"), "/readyz")
    assert (ready.status, len(ready.text.splitlines())) == (503, 1)
    assert "no controller has told" in ready.text


async def test_a_port_that_is_taken_is_a_fault_in_one_line(world: World) -> None:
    taken = address_text(await world.relay.listening(service="debug"))

    for extra in ((), ("--check",)):
        done = await run(
            "outrelay-relay",
            *("--listen", "127.0.0.1:0", *world.credentials("relay")),
            *("--debug-listen", taken, *extra),
        )
        assert done.code == 78
        (line,) = done.stderr.splitlines()
        assert f"--debug-listen: cannot listen on {taken}: Address already in use" in line


async def test_numbers_are_dumped_to_the_end_and_the_level_changes_meanwhile(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "metrics.jsonl"
    agent, identity = await world.start_stranger(
        *("--metrics-dump", str(path), "--metrics-interval", "1h")
    )
    agent.send_signal(signal.SIGUSR1)
    await agent.event("log level changed", to="debug")
    assert (await get(agent, "/debug/status"))["log_level"] == "debug"
    assert path.read_bytes() == b""
    assert await agent.stop() == 0

    (line,) = await asyncio.to_thread(path.read_text().splitlines)
    dumped = json.loads(line)
    assert (dumped["component"], identity.role) == ("agent", "agent")
    assert dumped["metrics"]['outrelay_uplink_connects_total{result="connected"}'] == 1

"""``outrelay-cli fleet`` and ``stream`` against a live controller and a scripted relay."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
from click.testing import CliRunner

from outrelay.cli import rated
from outrelay.cli.command import main
from outrelay.controller.fleet import attachments
from outrelay.lib.control.v1.fleet_pb2 import RelayStatus
from tests.cli.running import Cli, cli_of
from tests.controller.fleet.scripted import ScriptedRelay, agent, attached, stream
from tests.controller.live import AGENT_A, AGENT_B, LiveController, registration, relay_beat
from tests.support.plain_controller import PlainController

OTHER = "outrelay://other/agent/0000000c-0000-4000-8000-00000000000c"


@pytest.fixture(autouse=True)
async def relay(controller: LiveController) -> AsyncIterator[ScriptedRelay]:
    """A relay with two streams of acme and one of another tenant."""
    now = int(time.time() * 1000)
    async with controller.as_relay("r1") as stubs, attached(stubs, "r1") as relay:
        await stubs.registry.UpsertRelay(relay_beat("r1", tcp_endpoint="127.0.0.1:443"))
        await stubs.registry.RegisterService(registration("db", AGENT_B, local_addr="10.0.0.1:1"))
        relay.status = RelayStatus(
            version="1.2",
            started_unix_ms=now - 90_000,
            streams=2,
            certificate_not_after_unix_ms=now + 3_605_000,
        )
        relay.agents = [
            agent(AGENT_A, since_unix_ms=now - 5000, consuming=2),
            agent(AGENT_B, services=["db", "a", "b"], services_count=20, features=["resume/2"]),
            agent(OTHER, carrier="tcp"),
        ]
        relay.streams = [
            stream(0xA1, opened_unix_ms=now - 3_700_000, bytes_up=512, bytes_down=3 * 2**20),
            stream(0xA2, opened_unix_ms=now, service="we\x1b[2Jb", method="GET"),
            stream(0xA3, opened_unix_ms=now - 1, tenant="other"),
        ]
        yield relay


@pytest.fixture
def system(cli: Cli, controller: LiveController) -> Cli:
    return cli_of(cli.directory, controller, controller.pki.operator("system", "root"))


async def test_streams_are_a_table_newest_first(cli: Cli) -> None:
    head, first, second = (await cli.ok("fleet", "streams")).splitlines()
    assert head.split() == [
        "STREAM", "SERVICE", "METHOD", "CALLER", "PROVIDER", "AGE", "UP", "DOWN", "RELAY"
    ]  # fmt: skip
    assert first.split()[:3] == ["00000000000000a2", r"we\x1b[2Jb", "GET"]
    assert second.split()[:4] == [
        "00000000000000a1",
        "db",
        AGENT_A.removeprefix("outrelay://"),
        AGENT_B.removeprefix("outrelay://"),
    ]
    assert second.split()[4] in ("1h01m", "1h02m")
    assert second.split()[5:] == ["512", "B", "3.0", "MiB", "r1"]


async def test_streams_as_records(cli: Cli) -> None:
    first, second = await cli.records("fleet", "streams")
    assert (first["method"], second["bytes_down"]) == ("GET", 3 * 2**20)
    assert second["relay_id"] == "r1"


async def test_who_may_touch_all_tenants_sees_all_or_the_one_it_names(system: Cli) -> None:
    head, *lines = (await system.ok("fleet", "streams")).splitlines()
    assert head.split()[1] == "TENANT"
    assert [line.split()[1] for line in lines] == ["acme", "other", "acme"]
    assert len(await system.records("fleet", "streams", "--tenant", "other")) == 1


async def test_relays_with_what_they_say(cli: Cli) -> None:
    head, line = (await cli.ok("fleet", "relays")).splitlines()
    assert head.split() == [
        "RELAY", "REGION", "STATE", "ENDPOINT", "TCP", "AGENTS", "STREAMS", "SINCE",
        "CERT", "VERSION"
    ]  # fmt: skip
    words = line.split()
    assert words[:7] == ["r1", "local", "up", "127.0.0.1:7443", "127.0.0.1:443", "2", "2"]
    assert words[7].startswith("1m3")
    assert words[8:] == ["1h00m", "1.2"]
    (record,) = await cli.records("fleet", "relays")
    assert (record["id"], record["alive"], record["draining"]) == ("r1", True, False)


async def test_agents_by_the_beginning_of_their_names(cli: Cli, system: Cli) -> None:
    head, first, second = (await cli.ok("fleet", "agents")).splitlines()
    assert head.split() == [
        "AGENT", "RELAY", "CARRIER", "SINCE", "SERVICES", "STREAMS", "ADDRESS", "FEATURES", "URI"
    ]  # fmt: skip
    assert first.split()[:4] == ["00000000", "r1", "quic", "5s"]
    assert "0 in, 2 out" in first
    assert "plain" in first
    assert "db, a, b +17" in second
    assert second.split()[-2:] == ["resume/2", AGENT_B]
    head, *lines = (await system.ok("fleet", "agents")).splitlines()
    assert head.split()[1] == "TENANT"
    assert lines[-1].split()[:4] == ["0000000c", "other", "r1", "tcp"]
    (record,) = await system.records("fleet", "agents", "--tenant", "other")
    assert (record["agent_uri"], record["services"]) == (OTHER, [])


async def test_services_with_who_offers_them(cli: Cli) -> None:
    head, line = (await cli.ok("fleet", "services")).splitlines()
    assert head.split()[:5] == ["SERVICE", "AGENT", "RELAY", "REGION", "STATE"]
    assert line.split()[:6] == ["db", "00000000", "r1", "local", "live", "10.0.0.1:1"]
    assert line.split()[-1] == AGENT_B
    (record,) = await cli.records("fleet", "services")
    assert record["state"] == "live"


async def test_every_list_tells_rates_to_who_asks(
    cli: Cli, relay: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rated, "BETWEEN", 0.05)
    relay.moved = 2**30
    assert "MiB" not in await cli.ok("fleet", "services")
    for what, others in (("relays", 0), ("agents", 1), ("services", 0), ("streams", 1)):
        first, *more = await cli.records("fleet", what, "--rates")
        assert len(more) == others
        if what == "streams":
            assert first["rate_up"] == 0  # the other one moves
            (first,) = more
        up, down = first["rate_up"], first["rate_down"]
        assert isinstance(up, int)
        assert isinstance(down, int)
        assert 2 * down - 2 <= up <= 2 * down + 2
        assert up > 0
        if what == "agents":  # what one sends the other gets
            assert more[0]["rate_down"] == up
        head, *_ = (await cli.ok("fleet", what, "--rates")).splitlines()
        assert ("SENT/s" if what == "agents" else "UP/s") in head.split()
        assert not any("rate_up" in each for each in await cli.records("fleet", what))


async def test_that_rates_are_of_a_part_is_said(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rated, "BETWEEN", 0.0)
    monkeypatch.setattr(rated, "MOST", 1)
    result = await cli.run("fleet", "services", "--rates")
    assert result.exit_code == 0
    assert "there are more than 1 streams: the rates are made of the newest" in result.stderr


async def test_a_relay_drains_when_somebody_means_it(system: Cli, relay: ScriptedRelay) -> None:
    out = await system.ok("fleet", "drain", "r1", "--yes", "--reason", "new kernel")
    assert out == "r1 drains: it carries 3 streams, for 10 s at most\n"
    assert relay.asked[-1].drain.reason.endswith("root: new kernel")
    relay.streams = relay.streams[:1]
    assert "carries 1 stream," in await system.ok("fleet", "drain", "r1", "--yes")
    (record,) = await system.records("fleet", "drain", "r1", "--yes")
    assert record == {"relay_id": "r1", "streams": 1, "drain_ms": 10_000}


def test_a_relay_does_not_drain_when_nobody_says_yes(system: Cli, relay: ScriptedRelay) -> None:
    result = CliRunner().invoke(main, ["fleet", "drain", "r1"], input="n\n", env=system.environment)
    assert result.exit_code == 1
    assert "Drain relay r1?" in result.stderr
    assert relay.asked == []


async def test_a_relay_that_is_not_there_cannot_drain(cli: Cli, system: Cli) -> None:
    assert "no relay r9" in await system.fails(3, "fleet", "drain", "r9", "--yes")
    assert "an operator of system" in await cli.fails(4, "fleet", "drain", "r1", "--yes")


@pytest.mark.parametrize("what", ["relays", "agents", "services", "streams"])
async def test_a_plain_controller_knows_nothing_of_it(cli: Cli, what: str) -> None:
    async with PlainController().serving() as target:
        line = await cli.fails(
            1, "fleet", what, "--controller", target, "--plaintext", "--tenant", "acme"
        )
    assert line.startswith(f"outrelay-cli: controller {target}")
    assert "does not know this call; it may be an older version or another program" in line


async def test_more_than_the_limit_is_said(cli: Cli) -> None:
    result = await cli.run("fleet", "streams", "--limit", "1", "--output", "json")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == "outrelay-cli: there are more than 1 streams; see --limit\n"


async def test_a_silent_relay_is_said(
    cli: Cli, relay: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachments, "ANSWER_TIMEOUT", 0.1)
    relay.answers = False
    result = await cli.run("fleet", "streams")
    assert result.exit_code == 0
    assert "no answer in time from r1: what they carry is missing" in result.stderr
    line = await cli.fails(3, "stream", "kill", "00000000000000a1")
    assert line.endswith("(no answer in time from r1)")


async def test_kill_ends_the_stream(cli: Cli, relay: ScriptedRelay) -> None:
    assert await cli.ok("stream", "kill", "00000000000000A1", "--reason", "noisy") == ""
    assert relay.asked[-1].kill.reason.endswith("alice: noisy")
    assert [each["stream_id"] for each in await cli.records("fleet", "streams")] == [
        "00000000000000a2"
    ]
    (record,) = await cli.records("stream", "kill", "00000000000000a2")
    assert record == {"stream_id": "00000000000000a2", "killed": 1}


async def test_kill_of_what_is_not_there_is_not_found(cli: Cli, relay: ScriptedRelay) -> None:
    line = await cli.fails(3, "stream", "kill", "00000000000000a3")
    assert line.endswith("no relay carries a stream 00000000000000a3 of acme")
    assert len(relay.streams) == 3
    line = await cli.fails(2, "stream", "kill", "a3")
    assert line.endswith("stream_id: must be 16 hex digits")

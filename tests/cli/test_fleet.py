"""``outrelay-cli fleet`` and ``stream`` against a live controller and a scripted relay."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from outrelay.controller.fleet import attachments
from tests.cli.running import Cli, cli_of
from tests.controller.fleet.scripted import ScriptedRelay, attached, stream
from tests.controller.live import AGENT_A, AGENT_B, LiveController


@pytest.fixture(autouse=True)
async def relay(controller: LiveController) -> AsyncIterator[ScriptedRelay]:
    """A relay with two streams of acme and one of another tenant."""
    now = int(time.time() * 1000)
    async with controller.as_relay("r1") as stubs, attached(stubs, "r1") as relay:
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

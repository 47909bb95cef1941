"""The command: where it asks, and its exit codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from outrelay.agent.command import main
from outrelay.agent.options import AgentOptions
from outrelay.agent.status import command
from outrelay.lib.insight import Insight
from outrelay.lib.values import address_text, parse_address
from tests.agent.place import AGENT, OPTIONS, RELAY, SERVICE, Place
from tests.agent.tcp import HOST
from tests.support.ports import unused_port

SHOWN: AgentOptions = replace(OPTIONS, insight=Insight(debug_listen=(HOST, 0)))


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "BETWEEN", 0.01)


def run(*args: str, **env: str) -> Result:
    return CliRunner().invoke(main, ["status", *args], env=env)


async def asked(place: Place, *args: str) -> Result:
    line = await place.seen.wait("listening", service="debug")
    where = address_text(parse_address(str(line["address"])))
    call: Callable[..., Result] = run
    return await asyncio.to_thread(call, *args, OUTRELAY_AGENT_DEBUG_LISTEN=where)


async def test_an_agent_that_is_connected(place: Place) -> None:
    async with place.agent(expose={SERVICE: 9}, options=SHOWN):
        link = await place.relay.accept()
        assert await link.registered() == SERVICE
        await place.seen.wait("registered", service=SERVICE)
        result = await asked(place)
        assert (result.exit_code, result.stderr) == (0, "")
        first, *_ = result.stdout.splitlines()
        assert first == f"{AGENT}: connected"
        assert "local/relay/r1" in result.stdout
        assert "registered" in result.stdout

        status = json.loads((await asked(place, "--output", "json")).stdout)
        assert (status["connected"], status["rate_up"], status["rate_down"]) == (True, 0, 0)
        (session,) = status["sessions"]
        assert (session["relay"], session["path"], session["engine"]) == (
            str(RELAY),
            "relayed",
            None,
        )
        (exposed,) = status["exposed"]
        assert (exposed["registered"], exposed["refused"]) == (True, None)


async def test_an_agent_that_is_not_connected(place: Place) -> None:
    async with place.agent(consume=[SERVICE], options=SHOWN):
        result = await asked(place)
        assert result.exit_code == 1
        assert f"{AGENT}: NOT CONNECTED" in result.stdout
        assert "CONSUMES" in result.stdout


def test_nobody_there_is_one_line_and_5() -> None:
    where = address_text((HOST, unused_port()))
    result = run("--debug-listen", where)
    assert (result.exit_code, result.stdout) == (5, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"outrelay-agent: {where}: nobody answers there")


def test_it_asks_where_the_agents_own_file_says(tmp_path: Path) -> None:
    where = address_text((HOST, unused_port()))
    file = tmp_path / "agent.toml"
    file.write_text(f'relay = "r:1"\ncert = "a.pem"\ndebug-listen = "{where}"\n')
    assert where in run("--config", str(file)).stderr


def test_an_agent_that_shows_itself_nowhere_cannot_be_asked() -> None:
    result = run("--debug-listen", "")
    assert result.exit_code == 78
    assert "--debug-listen: is empty" in result.stderr


def test_flags_before_the_word_are_not_its_own() -> None:
    files = ("--cert", "a.pem", "--key", "a.key", "--ca", "ca.pem")
    result = CliRunner().invoke(main, [*files, "status"])
    assert result.exit_code == 2
    assert "write 'status' before the flags" in result.stderr

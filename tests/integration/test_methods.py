"""A mapping of --consume may name a method, and a rule may allow one method and not another."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from outrelay.lib.values import Address
from tests.integration.peers import answer_to, echo
from tests.integration.world import ANY_PORT, SECRET, TENANT, World
from tests.support.processes import Program

pytestmark = pytest.mark.asyncio(loop_scope="session")

READ, WRITE = "read", "admin/write@home"
"""The second one shows that a method may hold what ends other parts of a mapping."""


@asynccontextmanager
async def allowed(world: World, method: str) -> AsyncIterator[None]:
    """One method of SECRET may be called, for the length of the ``with``."""
    done = await world.cli(
        *("policy", "add", "--tenant", TENANT, "--caller", "*", "--target", SECRET),
        *("--method", method, "--decision", "allow"),
    )
    assert done.code == 0, done
    try:
        yield
    finally:
        await world.cli("policy", "remove", "--tenant", TENANT, "--id", done.stdout.strip())


async def at(agent: Program, method: str) -> Address:
    """Where the agent listens for SECRET by a method."""
    return await agent.listening(service=SECRET, method=method)


async def test_a_rule_allows_one_method_of_two(world: World) -> None:
    agent = await world.start_agent(
        "agent-a", *(f"--consume={SECRET}/{method}@{ANY_PORT}" for method in (READ, WRITE))
    )
    await agent.event("ready")
    for yes, no in ((READ, WRITE), (WRITE, READ)):
        mark = agent.mark()
        async with allowed(world, yes), world.backend.serving(echo):
            assert await answer_to(await at(agent, yes), b"a call") == b"a call"
            with pytest.raises(ConnectionResetError):
                await answer_to(await at(agent, no), b"a call")
            line = await agent.event("open refused", since=mark, method=no)
            assert (line["service"], line["code"]) == (SECRET, 403)
            assert f"--method {no} " in str(line["hint"])
        assert not agent.seen("open refused", since=mark, method=yes)
    await agent.stop()
    done = await world.cli(
        *("audit", "query", "--tenant", TENANT, "--target", SECRET, "--output", "json")
    )
    events = map(json.loads, done.stdout.splitlines())
    assert {READ, WRITE} <= {each["method"] for each in events if each["event"] == "open"}


@pytest.mark.parametrize("mapping", [f"vault/@{ANY_PORT}", "vault/read", "/read@127.0.0.1:1"])
async def test_a_malformed_mapping_is_refused_at_the_start(world: World, mapping: str) -> None:
    agent = await world.start_agent("agent-a", f"--consume={mapping}")
    assert await agent.ended() == 2
    assert "--consume" in agent.lines[-1]
    assert "127.0.0.1:5432" in agent.lines[-1] or "cannot name a service" in agent.lines[-1]

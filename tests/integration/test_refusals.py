"""What is refused is refused at once, with a clear word to whoever made the mistake.

Nothing that was refused reaches an application or a backend. The person hears of it in the
log of the program they run, or in its last words.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from outrelay.lib.values import Address
from tests.integration.peers import answer_to, calling, echo
from tests.integration.world import (
    ANY_PORT,
    APP,
    DEAD,
    GHOST,
    SECRET,
    TENANT,
    World,
    write_pki,
)
from tests.support.patience import PATIENCE
from tests.support.processes import Output, Program

pytestmark = pytest.mark.asyncio(loop_scope="session")

REFUSED, UNREACHABLE = 4, 5
"""Exit codes of ``outrelay-cli``."""


async def refused(address: Address) -> None:
    """Call; fail unless the connection ends without a byte."""
    with suppress(ConnectionResetError):  # which may be there before the connect is looked at
        async with asyncio.timeout(PATIENCE), calling(address) as (reader, writer):
            writer.write(b"a request")
            assert await reader.read() == b""


@asynccontextmanager
async def told(program: Program, event: str, **fields: object) -> AsyncIterator[None]:
    """Fail unless the log tells of what the body did."""
    mark = program.mark()
    yield
    line = await program.event(event, since=mark, timeout=PATIENCE, **fields)
    assert line["reason"]
    assert line["level"] in {"warning", "error"}


@pytest.mark.parametrize(
    ("service", "code"),
    [
        pytest.param(SECRET, 403, id="no rule allows it"),
        pytest.param(GHOST, 404, id="nobody exposes it"),
        pytest.param(DEAD, 502, id="its backend is closed"),
    ],
)
async def test_a_call_that_cannot_be_made(world: World, service: str, code: int) -> None:
    calls = world.backend.calls
    async with told(world.consumer, "open refused", service=service, code=code):
        await refused(world.at[service])
    assert world.backend.calls == calls


async def test_a_closed_backend_is_told_of_at_the_provider(world: World) -> None:
    mark = world.provider.mark()
    await refused(world.at[DEAD])
    line = await world.provider.event("backend failed", since=mark)
    assert "Connection refused" in str(line["reason"])


async def test_a_rule_decides_at_once(world: World) -> None:
    await refused(world.at[SECRET])
    rule = await world.allow(SECRET)
    async with world.backend.serving(echo):
        await _soon(world, allowed=True)
        done = await world.cli("policy", "remove", "--tenant", TENANT, "--id", rule)
        assert done.code == 0, done
        await _soon(world, allowed=False)


async def _soon(world: World, *, allowed: bool) -> None:
    """Call until a rule that was just changed has reached the relay."""
    async with asyncio.timeout(PATIENCE):
        while await _is_allowed(world.at[SECRET]) is not allowed:
            pass


async def _is_allowed(address: Address) -> bool:
    try:
        return await answer_to(address) == b"?"
    except ConnectionError:
        return False


# ---- the wrong certificate -----------------------------------------------------------------


CONSUME = f"--consume={APP}@{ANY_PORT}"


async def fails(program: Program, *words: str) -> None:
    """Fail unless the program ends in time, its last line saying all these words."""
    assert await program.ended() in {1, 78}
    for word in words:
        assert word in program.lines[-1], program.tail()
    assert not program.seen("ready")


async def test_a_uri_that_the_certificate_does_not_hold(world: World) -> None:
    other = f"outrelay://{TENANT}/agent/{uuid.uuid4()}"
    await fails(await world.start_agent("agent-a", "--uri", other, CONSUME), "--uri", other)


async def test_a_certificate_of_another_ca(world: World, tmp_path: Path) -> None:
    write_pki(tmp_path)
    agent = await world.start_agent("agent-a", CONSUME, pki=tmp_path)
    await fails(agent, await world.door(), "certificate", "--ca")


async def test_a_relay_of_another_ca(world: World, tmp_path: Path) -> None:
    write_pki(tmp_path)
    agent = await world.start_agent("agent-a", CONSUME, ca=tmp_path)
    await fails(agent, await world.door(), "certificate", "--ca")


async def test_a_relays_certificate_used_as_an_agents(world: World) -> None:
    await fails(await world.start_agent("relay", CONSUME), "relay.pem", "agent")


async def test_an_agents_certificate_used_as_a_relays(world: World) -> None:
    relay = await world.programs.start(
        "outrelay-relay",
        *("--listen", ANY_PORT, "--controller", await world.controller_address()),
        *world.credentials("agent-a"),
    )
    await fails(relay, "agent-a.pem", "relay")


LIST = ("policy", "list", "--tenant", TENANT)


async def test_an_agents_certificate_used_at_the_controller(world: World) -> None:
    async with asyncio.timeout(PATIENCE):
        done = await world.cli(*LIST, holder="agent-a")
    assert done.code == REFUSED
    assert "agent" in one_line(done)


async def test_an_operator_of_another_ca_at_the_controller(world: World, tmp_path: Path) -> None:
    write_pki(tmp_path)
    async with asyncio.timeout(PATIENCE):
        done = await world.cli(*LIST, pki=tmp_path)
    assert done.code in {REFUSED, UNREACHABLE}
    assert await world.controller_address() in one_line(done)


def one_line(done: Output) -> str:
    """What a failed command said: one line, and nothing else."""
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    return line

"""A stream that runs is ended when the rules deny it, or when an operator says so."""

from __future__ import annotations

import asyncio
import json
from asyncio import StreamReader
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tests.integration.peers import calling, echo_until_cut, ping
from tests.integration.world import ALLOWED, APP, SECRET, World
from tests.support.patience import PATIENCE
from tests.support.processes import Output

pytestmark = pytest.mark.asyncio(loop_scope="session")

ALLOW = "{{tenant: acme, rules: [{{caller: '*', target: '{target}', decision: allow}}]}}"


@pytest_asyncio.fixture(loop_scope="session")
async def world(world: World) -> AsyncIterator[World]:
    """The one all share, with an echo for a backend; its rules are what they were, afterwards."""
    async with world.backend.serving(echo_until_cut):
        yield world
    await have_only(world, ALLOWED)


async def have_only(world: World, target: str) -> None:
    """Let one new rule be all that the tenant has: it allows ``target``."""
    rules = world.directory / "rules.yaml"
    await asyncio.to_thread(rules.write_text, ALLOW.format(target=target))
    await said(world, "policy", "apply", "-f", str(rules), "--yes")


async def said(world: World, *args: str) -> Output:
    """What ``outrelay-cli`` answers when all goes well."""
    done = await world.cli(*args)
    assert done.code == 0, done
    return done


async def assert_reset(reader: StreamReader) -> None:
    """The application is told that its stream was cut."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def assert_audited(world: World, stream_id: str, reason: str = "") -> None:
    """The trail tells that a stream was revoked, and why; it gets there within moments."""
    query = ("audit", "query", "--stream-id", stream_id, "--output", "json")
    async with asyncio.timeout(PATIENCE):
        while True:
            done = await said(world, *query)
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            if found := [line for line in lines if line["event"] == "revoke"]:
                assert len(found) == 1
                assert reason in found[0]["reason"]
                return


# ---- ways to deny SECRET, which a rule allows ------------------------------------------------


async def remove_the_rule(world: World, rule: str) -> None:
    await said(world, "policy", "remove", "--id", rule)


async def add_another(world: World, _rule: str) -> None:
    deny = ("--caller", "*", "--target", SECRET, "--decision", "deny")
    await said(world, "policy", "add", *deny)


async def replace_them_all(world: World, _rule: str) -> None:
    """By a set in which another rule than before allows APP."""
    await have_only(world, APP)


@pytest.mark.parametrize("change", [remove_the_rule, add_another, replace_them_all])
async def test_a_change_of_rules_ends_what_it_denies_and_nothing_else(
    world: World, change: Callable[[World, str], Awaitable[None]]
) -> None:
    rule, mark = await world.allow(SECRET), world.relay.mark()
    async with calling(world.at[SECRET]) as denied, calling(world.at[APP]) as kept:
        await ping(*denied)
        await ping(*kept)
        await change(world, rule)
        await assert_reset(denied[0])
        await ping(*kept)
    opened = await world.relay.event("stream opened", since=mark, service=SECRET)
    await assert_audited(world, str(opened["stream_id"]))


async def test_a_rule_that_expires_takes_its_streams_with_it(world: World) -> None:
    mark = world.relay.mark()
    brief = ("--caller", "*", "--target", SECRET, "--decision", "allow", "--expires", "5s")
    async with calling(world.at[APP]) as kept:
        await said(world, "policy", "add", *brief)
        async with calling(world.at[SECRET]) as (reader, writer):
            await ping(reader, writer)
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(ConnectionResetError):
                    await reader.read()
        await ping(*kept)
    opened = await world.relay.event("stream opened", since=mark, service=SECRET)
    await assert_audited(world, str(opened["stream_id"]))


async def test_an_operator_sees_a_stream_and_ends_it(world: World) -> None:
    mark = world.relay.mark()
    async with calling(world.at[APP]) as kept:
        await ping(*kept)
        await world.relay.event("stream opened", since=mark)
        mark = world.relay.mark()
        async with calling(world.at[APP]) as (reader, writer):
            await ping(reader, writer)
            stream_id = str((await world.relay.event("stream opened", since=mark))["stream_id"])
            listed = await said(world, "fleet", "streams", "--output", "json")
            streams = [json.loads(line) for line in listed.stdout.splitlines()]
            assert (stream_id, APP) in {(each["stream_id"], each["service"]) for each in streams}
            await said(world, "stream", "kill", stream_id, "--reason", "enough")
            await assert_reset(reader)
            await ping(*kept)
    await assert_audited(world, stream_id, "enough")
    again = await world.cli("stream", "kill", stream_id)
    assert again.code == 3, again

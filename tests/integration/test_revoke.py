"""A stream that runs is ended when its rule goes, or when an operator says so."""

from __future__ import annotations

import asyncio
import json
from asyncio import StreamReader

import pytest

from tests.integration.peers import calling, echo_until_cut, ping
from tests.integration.world import APP, TENANT, World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def assert_reset(reader: StreamReader) -> None:
    """The application is told that its stream was cut, within the second policy has."""
    async with asyncio.timeout(2.0):
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def audited(world: World, event: str) -> list[dict[str, object]]:
    """What the trail has of an event; it gets there within moments."""
    query = ("audit", "query", "--tenant", TENANT, "--output", "json")
    async with asyncio.timeout(10):
        while True:
            done = await world.cli(*query)
            assert done.code == 0, done
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            if found := [line for line in lines if line.get("event") == event]:
                return found


async def test_a_rule_that_goes_ends_what_it_allowed_and_nothing_else(own_world: World) -> None:
    world = own_world
    async with world.backend.serving(echo_until_cut):
        vault = await world.allow("vault")
        async with calling(world.at["vault"]) as denied, calling(world.at[APP]) as kept:
            await ping(*denied)
            await ping(*kept)
            removed = await world.cli("policy", "remove", "--tenant", TENANT, "--id", vault)
            assert removed.code == 0, removed
            await assert_reset(denied[0])
            await ping(*kept)
    (event,) = await audited(world, "revoke")
    assert event["target"] == "vault"


async def test_an_operator_sees_a_stream_and_ends_it(own_world: World) -> None:
    world = own_world
    async with world.backend.serving(echo_until_cut), calling(world.at[APP]) as (reader, writer):
        await ping(reader, writer)
        listed = await world.cli("fleet", "streams", "--tenant", TENANT, "--output", "json")
        assert listed.code == 0, listed
        (stream,) = [json.loads(line) for line in listed.stdout.splitlines()]
        assert stream["service"] == APP
        killed = await world.cli("stream", "kill", "--tenant", TENANT, stream["stream_id"])
        assert killed.code == 0, killed
        await assert_reset(reader)
    again = await world.cli("stream", "kill", "--tenant", TENANT, stream["stream_id"])
    assert again.code == 3, again

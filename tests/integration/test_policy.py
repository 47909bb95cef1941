"""What rules can say beside "may call": who may offer, who is served by whom, and why."""

from __future__ import annotations

import asyncio
import hashlib
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from outrelay.lib.identity.certs import load_credentials
from tests.integration.peers import CHUNK, answer_to, calling, digest_of, echo
from tests.integration.world import ALLOWED, ANY_PORT, APP, TENANT, World
from tests.support.pki import agent_identity

pytestmark = pytest.mark.asyncio(loop_scope="session")

ONLY = "{{tenant: acme, rules: [{{caller: '*', target: '{target}', decision: allow}}]}}"
PACE = 0.05
"""Seconds between chunks of a transfer that leaves others their turn on a small machine."""

OTHERS = f"outrelay://{TENANT}/agent/00000000-0000-4000-8000-000000000001"


def uri(world: World, holder: str) -> str:
    """Who a holder of a certificate is."""
    files = (world.pki / f"{holder}.{kind}" for kind in ("pem", "key"))
    return load_credentials(*files).identity.uri


async def said(world: World, *args: str) -> str:
    """What ``outrelay-cli`` answers when all goes well."""
    done = await world.cli(*args)
    assert done.code == 0, done
    return done.stdout


@asynccontextmanager
async def rule(
    world: World, caller: str, target: str, *more: str, decision: str = "allow"
) -> AsyncIterator[str]:
    """A rule that is there for the length of the ``with``."""
    rule_id = (
        await said(
            world,
            *("policy", "add", "--caller", caller, "--target", target),
            *("--decision", decision, *more),
        )
    ).strip()
    try:
        yield rule_id
    finally:
        await said(world, "policy", "remove", "--id", rule_id)


async def until_answered(world: World, service: str, *, allowed: bool) -> None:
    """Call until a changed rule has reached the relay."""
    async with asyncio.timeout(10):
        while True:
            try:
                answered = await answer_to(world.at[service]) == b"?"
            except ConnectionError:
                answered = False
            if answered is allowed:
                return


async def test_once_a_provider_has_rules_it_serves_nobody_else(world: World) -> None:
    provider, consumer = uri(world, "agent-b"), uri(world, "agent-a")
    explain = ("policy", "explain", "--caller", consumer, "--target", APP, "--provider", provider)
    async with world.backend.serving(echo):
        await until_answered(world, APP, allowed=True)
        async with rule(world, provider, OTHERS):
            await until_answered(world, APP, allowed=False)
            refused = await said(world, *explain)
            assert "deny: the provider's policy does not allow it" in refused
            async with rule(world, provider, consumer) as mine:
                await until_answered(world, APP, allowed=True)
                answer = json.loads(await said(world, *explain, "--output", "json"))
                assert answer["decision"] == "allow"
                deciding = [one["rule"]["id"] for one in answer["considered"] if one["decides"]]
                assert len(deciding) == 2
                assert deciding[1] == mine
                assert {one["why"] for one in answer["considered"]} >= {"the caller does not match"}
            await until_answered(world, APP, allowed=False)
        await until_answered(world, APP, allowed=True)


async def test_a_rule_says_who_may_offer_a_service(world: World) -> None:
    stranger = agent_identity(TENANT)
    world.issue(stranger, name=stranger.name)
    offers = f"--expose=shop-odd={ANY_PORT.replace(':0', ':1')}"
    async with rule(world, stranger.uri, "shop-odd", "--method", "REGISTER", decision="deny"):
        mark = world.relay.mark()
        agent = await world.start_agent(stranger.name, offers)
        line = await agent.event("registration refused", service="shop-odd")
        assert "403" in str(line["reason"])
        await world.relay.event("registration refused", since=mark, service="shop-odd", code=403)
    await agent.event("registered", service="shop-odd")  # it tries again
    await agent.stop()


@asynccontextmanager
async def rules_restored(world: World) -> AsyncIterator[Path]:
    """A file to apply other rules from; afterwards they say again what they said."""
    file = world.directory / "rules.yaml"
    before = await said(world, "policy", "list", "--output", "yaml")
    try:
        yield file
    finally:
        await asyncio.to_thread(file.write_text, before)
        await said(world, "policy", "apply", "--yes", "-f", str(file))


async def test_a_transfer_goes_on_through_replaced_rule_sets_to_the_byte(world: World) -> None:
    chunk, sent, enough = Random(4).randbytes(CHUNK), hashlib.sha256(), asyncio.Event()
    size = 0
    taken = asyncio.Queue[str]()

    async def take(reader: StreamReader, writer: StreamWriter) -> None:
        taken.put_nowait(await digest_of(reader))
        writer.write_eof()

    async def send(writer: StreamWriter) -> None:
        nonlocal size
        while not enough.is_set():
            writer.write(chunk)
            sent.update(chunk)
            size += len(chunk)
            await writer.drain()
            await asyncio.sleep(PACE)
        writer.write_eof()

    mark = world.relay.mark()
    async with (
        rules_restored(world) as file,
        world.backend.serving(take),
        calling(world.at[APP]) as (reader, writer),
    ):
        async with asyncio.TaskGroup() as group:
            group.create_task(send(writer), name="sender")
            for target in (APP, ALLOWED, "*", APP):
                await asyncio.to_thread(file.write_text, ONLY.format(target=target))
                await said(world, "policy", "apply", "--yes", "-f", str(file))
            shown = await said(world, "fleet", "streams", "--output", "json")
            enough.set()
        [stream] = [json.loads(line) for line in shown.splitlines()]
        assert 0 < stream["bytes_up"] <= size
        assert await taken.get() == sent.hexdigest()
        assert await reader.read() == b""
    ended = await world.relay.event("stream ended", since=mark, stream_id=stream["stream_id"])
    assert (ended["bytes_up"], ended["reason"]) == (size, "finished")

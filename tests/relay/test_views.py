"""What a relay shows: who is connected, what it carries, and why nobody should come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from outrelay.lib.observe.views import page_of, status_of
from outrelay.relay import views
from tests.relay.test_app import Running, spliced, world
from tests.support.peers import AGENT_A, AGENT_B
from tests.support.relay_peer import read_exactly


def status(relay: Running) -> Any:
    return status_of(relay.views)


def streams(relay: Running) -> Any:
    return page_of(relay.views.streams, limit=10, after="")["streams"]


async def test_it_shows_who_is_connected_and_what_for(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await spliced(made)
        shown = status(made.relay)

        assert shown["identity"] == "outrelay://local/relay/r1"
        assert (shown["relay_id"], shown["region"], shown["ready"]) == ("r1", "local", True)
        assert shown["connected"] == 2
        agents = {each["agent"]: each for each in shown["agents"]}
        assert agents[AGENT_B.uri]["services"] == ["db"]
        assert agents[AGENT_B.uri]["serving"] == 1
        assert agents[AGENT_A.uri]["services"] == []
        assert agents[AGENT_A.uri]["resumes"]
        assert 0 < agents[AGENT_A.uri]["since_unix_ms"] <= shown["ts_unix_ms"]
        assert shown["controller"]["address"] in made.controller.targets.values()
        assert (shown["rules"], shown["streams"]) == (1, 1)


async def test_it_shows_the_streams_it_carries(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        assert streams(made.relay) == []
        line = await spliced(made)
        await line.near.write(b"question")
        assert await read_exactly(line.far, 8) == b"question"

        (shown,) = streams(made.relay)
        assert shown["name"] == "acme/0000000000000007"
        assert (shown["consumer"], shown["provider"]) == (AGENT_A.uri, AGENT_B.uri)
        assert (shown["service"], shown["state"], shown["path"]) == ("db", "spliced", "relayed")
        assert (shown["bytes_up"], shown["bytes_down"]) == (8, 0)
        assert status(made.relay)["bytes_up"] == 8


async def test_a_stream_whose_provider_is_asked_is_being_opened(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.allow("db")
        provider = await made.relay.agent(AGENT_B)
        await provider.register("db")
        consumer = await made.relay.agent(AGENT_A)
        await consumer.open("db", stream_id=7)
        await provider.incoming()

        (shown,) = streams(made.relay)
        assert (shown["state"], shown["opened_unix_ms"]) == ("opening", None)


async def test_of_very_many_agents_it_shows_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "MOST_AGENTS", 1)
    async with world(tmp_path) as made:
        await made.relay.agent(AGENT_A)
        await made.relay.agent(AGENT_B)

        assert status(made.relay)["connected"] == 2
        assert len(status(made.relay)["agents"]) == 1


async def test_a_relay_that_drains_is_not_ready(tmp_path: Path) -> None:
    async with world(tmp_path, drain=60.0) as made:
        line = await spliced(made)
        made.relay.stop.set()
        await made.relay.seen.wait("draining")

        assert status(made.relay)["unready"] == ["this relay is shutting down"]
        line.near.finish()
        line.far.finish()

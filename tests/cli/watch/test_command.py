"""``outrelay-cli fleet watch`` against a live controller; at a terminal it is a black-box test."""

from __future__ import annotations

import json

from tests.cli.running import Cli
from tests.controller.fleet.scripted import agent, attached, stream
from tests.controller.live import AGENT_A, LiveController, relay_beat


async def test_every_look_is_a_line_of_json(cli: Cli, controller: LiveController) -> None:
    async with controller.as_relay("r1") as stubs, attached(stubs, "r1") as relay:
        await stubs.registry.UpsertRelay(relay_beat("r1"))
        relay.agents, relay.streams = [agent()], [stream(1, bytes_up=7)]
        out = await cli.ok(
            "fleet", "watch", "--output", "json", "--count", "2", "--interval", "100ms"
        )
    first, second = map(json.loads, out.splitlines())
    assert (first["away"], first["truncated"], first["silent_relays"]) == (None, [], [])
    (seen,) = first["relays"]
    assert (seen["id"], seen["agents"], seen["rate_up"]) == ("r1", 1, None)
    (seen,) = second["agents"]
    assert (seen["agent_uri"], seen["rate_up"]) == (AGENT_A, 0)
    (seen,) = second["streams"]
    assert (seen["bytes_up"], seen["rate_up"], seen["rate_down"]) == (7, 0, 0)
    assert second["sampled_unix_ms"] > first["sampled_unix_ms"]


async def test_without_a_terminal_there_is_no_screen(cli: Cli) -> None:
    assert "give --output json" in await cli.fails(2, "fleet", "watch")

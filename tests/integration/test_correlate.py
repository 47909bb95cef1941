"""Something breaks; the logs that the programs wrote, put together, say where and what."""

from __future__ import annotations

import json
import signal
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.integration.peers import answer_to, calling, echo
from tests.integration.world import APP, DEAD, IMPATIENT, SECRET, TENANT, World, outrelay_world
from tests.support.processes import run

pytestmark = pytest.mark.asyncio(loop_scope="session")

LOGS = ("agent-a.log", "relay.log", "agent-b.log")


def write_logs(world: World, folder: Path) -> None:
    """What everybody has logged, as files."""
    programs = (world.consumer, world.relay, world.provider)
    for name, program in zip(LOGS, programs, strict=True):
        (folder / name).write_text("".join(f"{line}\n" for line in program.lines))


async def write_trail(world: World, folder: Path) -> None:
    """The audit trail, as ``audit query`` exports it."""
    query = ("audit", "query", "--tenant", TENANT, "--limit", "0", "--output", "json")
    done = await world.cli(*query)
    assert done.code == 0, done
    (folder / "audit.json").write_text(done.stdout)


async def story(folder: Path, stream_id: object, *files: str) -> dict[str, Any]:
    """What correlate says of a stream."""
    done = await run("correlate", "--id", str(stream_id), "--output", "json", *files, cwd=folder)
    assert done.code == 0, done
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


async def drawn(folder: Path, stream_id: object, *files: str) -> str:
    """Its timeline, for a terminal of 80 columns."""
    timeline = ("--id", str(stream_id), "--output", "timeline")
    done = await run("correlate", *timeline, *files, cwd=folder, env={"COLUMNS": "80"})
    assert done.code == 0, done
    assert max(map(len, done.stdout.splitlines())) <= 80
    return done.stdout


async def call_refused(world: World, service: str) -> object:
    """Call a service that cannot be had; the id of the stream that it was."""
    mark = world.consumer.mark()
    with pytest.raises(ConnectionError):
        await answer_to(world.at[service], b"hello")
    line = await world.consumer.event("open refused", since=mark, service=service)
    return line["stream_id"]


async def test_a_backend_that_is_down(world: World, tmp_path: Path) -> None:
    stream_id = await call_refused(world, DEAD)
    await world.relay.event("stream refused", stream_id=stream_id)
    write_logs(world, tmp_path)
    found = await story(tmp_path, stream_id, *LOGS)
    assert (found["result"], found["stopped_at"]) == ("refused", "provider")
    assert found["reason"].startswith("502 the provider's backend cannot be reached")
    assert found["service"] == DEAD
    assert found["seen_by"] == ["consumer", "relay", "provider"]
    text = await drawn(tmp_path, stream_id, *LOGS)
    assert "✗  backend failed" in text
    assert "stopped   at the provider, refused: 502" in text
    assert f"is the backend of {DEAD} running?" in " ".join(text.split())


async def test_a_missing_rule(world: World, tmp_path: Path) -> None:
    stream_id = await call_refused(world, SECRET)
    await world.relay.event("stream refused", stream_id=stream_id)
    write_logs(world, tmp_path)
    found = await story(tmp_path, stream_id, *LOGS)
    assert (found["result"], found["stopped_at"]) == ("refused", "relay")
    assert found["reason"].startswith("403 ")
    assert found["seen_by"] == ["consumer", "relay"]
    text = " ".join((await drawn(tmp_path, stream_id, *LOGS)).split())
    assert "missing provider has no line, as it should: none was asked" in text
    assert "outrelay-cli policy explain" in text


async def echo_until_gone(reader: StreamReader, writer: StreamWriter) -> None:
    """A backend that outlives what happens to its streams."""
    with suppress(ConnectionError):
        await echo(reader, writer)


async def test_a_relay_that_is_killed(tmp_path: Path) -> None:
    async with outrelay_world(tmp_path, agent_flags=IMPATIENT) as world:
        async with (
            world.backend.serving(echo_until_gone),
            calling(world.at[APP]) as (reader, writer),
        ):
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            stream_id = (await world.consumer.event("stream opened"))["stream_id"]
            await world.relay.stop(signal.SIGKILL)
            await world.consumer.event("stream ended", stream_id=stream_id)
            await world.provider.event("stream ended", stream_id=stream_id)
        await write_trail(world, tmp_path)
        write_logs(world, tmp_path)
    found = await story(tmp_path, stream_id, *LOGS)
    assert (found["result"], found["stopped_at"]) == ("ended", "relay")
    assert found["reason"].startswith("not resumed within 2 s")
    text = " ".join((await drawn(tmp_path, stream_id, *LOGS)).split())
    assert "missing relay.log has no end of it, and no line after that" in text
    assert "disconnected" in text


async def test_the_audit_trail_tells_for_a_relay_without_log(
    own_world: World, tmp_path: Path
) -> None:
    world, mark = own_world, own_world.consumer.mark()
    async with world.backend.serving(echo):
        assert await answer_to(world.at[APP], b"hello") == b"hello"
    line = await world.consumer.event("stream ended", since=mark)
    await world.relay.event("stream ended", stream_id=line["stream_id"])
    await world.relay.stop()  # the controller is told everything before it ends
    await write_trail(world, tmp_path)
    write_logs(world, tmp_path)
    found = await story(tmp_path, line["stream_id"], "agent-a.log", "audit.json")
    assert found["result"] == "finished"
    assert found["seen_by"] == ["consumer", "audit"]
    assert [each["event"] for each in found["lines"] if each.get("relay_id")] == ["open", "close"]
    assert len({each["ts_unix_ms"] for each in found["lines"]}) > 1

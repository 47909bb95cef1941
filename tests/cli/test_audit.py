"""``outrelay-cli audit`` against a live controller."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from rich.text import Text

from outrelay.cli.audit import COLUMNS
from outrelay.cli.output import print_table
from outrelay.controller.app import serving
from outrelay.controller.feed import Mark
from outrelay.controller.store import open_store
from outrelay.lib.control.v1 import audit_pb2, policy_pb2
from tests.cli.running import Cli
from tests.controller.live import AGENT_A, AGENT_B, LiveController, options_for, stubs
from tests.support.pki import TestPki

NOW = int(time.time() * 1000)
HOUR = 3600 * 1000


@pytest.fixture(autouse=True)
async def trail(controller: LiveController) -> AsyncIterator[None]:
    """An allowed call, its end, and a refused one from long ago."""
    call = {"tenant": "acme", "caller": AGENT_A, "target": "db", "stream_id": "00" * 8}
    events = [
        audit_pb2.AuditEvent(
            ts_unix_ms=NOW - 2000,
            event="open",
            decision=policy_pb2.DECISION_ALLOW,
            reason="allowed by policy rule 1",
            **call,  # type: ignore[arg-type]
        ),
        audit_pb2.AuditEvent(
            ts_unix_ms=NOW - 1000,
            event="close",
            decision=policy_pb2.DECISION_ALLOW,
            reason="closed",
            bytes_up=5,
            duration_ms=1000,
            provider=AGENT_B,
            **call,  # type: ignore[arg-type]
        ),
        audit_pb2.AuditEvent(
            ts_unix_ms=NOW - 5 * HOUR,
            tenant="acme",
            caller=AGENT_B,
            target="we\x1b[2Jb",
            event="reject",
            decision=policy_pb2.DECISION_DENY,
            reason="no policy rule allows it",
        ),
    ]
    async with controller.as_relay() as relay:
        await relay.audit.RecordBatch(iter([audit_pb2.RecordBatchRequest(events=events)]))
        yield


async def times(cli: Cli, *flags: str) -> list[int]:
    records = await cli.records("audit", "query", *flags)
    return [int(str(record["ts_unix_ms"])) - NOW for record in records]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), [-1000, -2000, -5 * HOUR]),
        (("--since", "1h"), [-1000, -2000]),
        (("--until", "1h"), [-5 * HOUR]),
        (("--since", "1h", "--until", "1s"), [-1000, -2000]),
        (("--limit", "1"), [-1000]),
        (("--limit", "0"), [-1000, -2000, -5 * HOUR]),
        (("--caller", AGENT_B), [-5 * HOUR]),
        (("--target", "db", "--decision", "allow", "--stream-id", "00" * 8), [-1000, -2000]),
        (("--decision", "deny"), [-5 * HOUR]),
        (("--target", "nobody"), []),
        (("--stream-id", "0F" * 8), []),
    ],
)
async def test_query_filters_newest_first(
    cli: Cli, flags: tuple[str, ...], expected: list[int]
) -> None:
    assert await times(cli, *flags) == expected


@pytest.mark.parametrize("command", ["query", "tail"])
async def test_what_would_find_nothing_is_refused(cli: Cli, command: str) -> None:
    """A caller by the beginning that tables show, and half a stream's id."""
    short = AGENT_A.rpartition("/")[2].partition("-")[0]
    for flags, fault in ((("--caller", short), "outrelay://"), (("--stream-id", "0f"), "16 hex")):
        done = await cli.run("audit", command, *flags)
        assert (done.exit_code, done.stdout) == (2, "")
        assert fault in done.stderr


async def test_json_has_every_field_in_words(cli: Cli) -> None:
    (event,) = await cli.records("audit", "query", "--limit", "1")
    assert event["event_id"]
    del event["event_id"]
    assert event == {
        "ts_unix_ms": NOW - 1000,
        "tenant": "acme",
        "caller": AGENT_A,
        "target": "db",
        "method": "",
        "decision": "allow",
        "reason": "closed",
        "stream_id": "00" * 8,
        "event": "close",
        "relay_id": "",
        "provider": AGENT_B,
        "bytes_up": 5,
        "bytes_down": 0,
        "duration_ms": 1000,
    }


async def test_the_table_has_a_line_for_each_event(cli: Cli) -> None:
    head, *lines = (await cli.ok("audit", "query")).splitlines()
    assert head.split()[:3] == ["TIME", "EVENT", "DECISION"]
    assert [line.split()[2:4] for line in lines] == [
        ["close", "allow"],
        ["open", "allow"],
        ["reject", "deny"],
    ]
    assert lines[0].endswith("closed; 5 B up, 0 B down, 1.0 s")


def test_a_table_of_a_narrow_terminal_tells_the_whole_story(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    event = audit_pb2.AuditEvent(
        ts_unix_ms=NOW,
        caller=AGENT_A,
        target="shop-app",
        provider=AGENT_B,
        stream_id="0f" * 8,
        decision=policy_pb2.DECISION_ALLOW,
        event="close",
        reason="closed",
        bytes_up=1536,
        bytes_down=3 << 20,
        duration_ms=12_345,
    )
    print_table(COLUMNS, [event])
    head, *lines = Text.from_ansi(capsys.readouterr().out).plain.splitlines()
    assert head.split() == ["TIME", "EVENT", "CALLER", "TARGET", "DETAIL"]
    assert len(lines) == 2
    text = " ".join(line[head.index("DETAIL") :].strip() for line in lines)
    assert text == "closed; 1.5 KiB up, 3.0 MiB down, 12.3 s"


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        (AGENT_A, "00000000"),
        ("outrelay://acme/relay/r1", "acme/relay/r1"),
        ("spiffe://elsewhere/agent", "spiffe://elsewhere/agent"),
        ("", ""),
    ],
)
def test_a_caller_is_shown_by_the_beginning_of_its_name(uri: str, name: str) -> None:
    (caller,) = [column for column in COLUMNS if column.title == "CALLER"]
    assert caller.text(audit_pb2.AuditEvent(caller=uri)) == name


def test_an_allowed_registration_is_shown_as_one() -> None:
    (kind,) = [column for column in COLUMNS if column.title == "EVENT"]
    assert kind.text(audit_pb2.AuditEvent(method="REGISTER")) == "register"


async def test_what_a_peer_sent_cannot_move_the_cursor(cli: Cli) -> None:
    out = await cli.ok("audit", "query") + await cli.ok("audit", "query", "--output", "json")
    assert "\x1b" not in out
    assert r"we\x1b[2Jb" in out


@asynccontextmanager
async def tailing(cli: Cli, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """``audit tail`` as a process, killed in the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("outrelay-cli"), "audit", "tail", *flags,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **cli.environment},
    )  # fmt: skip
    try:
        async with asyncio.timeout(20):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout
    return (await process.stdout.readline()).decode()


async def store(controller: LiveController, **fields: object) -> None:
    event = audit_pb2.AuditEvent(tenant="acme", event="open", **fields)  # type: ignore[arg-type]
    async with controller.as_relay() as relay:
        await relay.audit.Record(audit_pb2.RecordAuditRequest(event=event))


def named(name: str) -> audit_pb2.AuditEvent:
    return audit_pb2.AuditEvent(tenant="acme", event_id=name, ts_unix_ms=NOW)


async def store_all(targets: Mapping[str, str], names: Iterable[str]) -> None:
    async with stubs(targets["plaintext"]) as relay:
        batch = audit_pb2.RecordBatchRequest(events=map(named, names))
        await relay.audit.RecordBatch(iter([batch]))


def _told_of_followers(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """An event that is set when somebody follows, and has been answered."""
    followed, beyond = asyncio.Event(), Mark.beyond

    async def noted(mark: Mark, number: int) -> int:
        followed.set()
        return await beyond(mark, number)

    monkeypatch.setattr(Mark, "beyond", noted)
    return followed


class TestTail:
    async def test_goes_on_after_the_past_and_ends_with_ctrl_c(
        self, cli: Cli, controller: LiveController
    ) -> None:
        async with tailing(cli, "--limit", "2", "--output", "json") as process:
            past = [json.loads(await line(process))["ts_unix_ms"] - NOW for _ in range(2)]
            assert past == [-2000, -1000]
            for target in ("one", "two"):
                await store(controller, target=target)
                assert json.loads(await line(process))["target"] == target
            process.send_signal(signal.SIGINT)
            rest, errors = await process.communicate()
        assert (process.returncode, rest, errors) == (130, b"", b"")

    @pytest.mark.parametrize("past", [0, 2])
    async def test_goes_on_where_it_was_when_the_controller_is_back(
        self, tmp_path: Path, past: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder := tmp_path / "another").mkdir()
        options = options_for(folder, TestPki())
        names = [f"e{number}" for number in range(past + 3)]
        followed = _told_of_followers(monkeypatch)
        async with AsyncExitStack() as stack:
            async with serving(options) as targets:
                await store_all(targets, names[:past])
                cli = Cli(tmp_path, {"OUTRELAY_CLI_CONTROLLER": targets["admin"]})
                flags = ("--tenant", "acme", "--limit", "1", "--output", "json")
                process = await stack.enter_async_context(tailing(cli, *flags))
                seen = [json.loads(await line(process))["event_id"] for _ in range(bool(past))]
                await followed.wait()
            assert process.stderr
            assert b"is away" in await process.stderr.readline()
            async with open_store(options.db) as trail:
                await trail.audit.record(map(named, names[past : past + 2]))
            async with serving(options) as targets:
                assert b"is back" in await process.stderr.readline()
                await store_all(targets, names[past + 2 :])
                seen += [json.loads(await line(process))["event_id"] for _ in range(3)]
                process.send_signal(signal.SIGINT)
                assert (await process.communicate()) == (b"", b"")
        assert seen == names[max(past - 1, 0) :]

    async def test_shows_what_is_asked_for_in_columns(
        self, cli: Cli, controller: LiveController
    ) -> None:
        async with tailing(cli, "--decision", "deny") as process:
            head, past = await line(process), await line(process)
            await store(controller, target="allowed", decision=policy_pb2.DECISION_ALLOW)
            await store(controller, target="denied", decision=policy_pb2.DECISION_DENY)
            new = await line(process)
        assert head.split()[:5] == ["TIME", "EVENT", "DECISION", "CALLER", "TARGET"]
        assert past.split()[2:4] == ["reject", "deny"]
        assert "denied" in new
        assert head.index("TARGET") == past.index("we") == new.index("denied")

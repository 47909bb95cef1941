"""Log lines as machines and as people read them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import time
import warnings

import pytest

from outrelay.lib.errors import ErrorCode
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.observe import logs

log = logs.get_logger("outrelay.tests.logs")
PEER = Identity(realm="acme", role=Role.OPERATOR, name="ada")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_carries_what_every_line_does_and_then_the_fields(stream: io.StringIO) -> None:
    logs.configure("relay", "json", "info", stream)
    before = time.time_ns() // 1_000_000

    log.info("stream opened", stream_id=f"{255:016x}", peer=PEER)

    (line,) = lines(stream)
    stamp = line.pop("ts_unix_ms")
    assert isinstance(stamp, int)
    assert before <= stamp <= time.time_ns() // 1_000_000
    assert list(line.items()) == [
        ("level", "info"),
        ("component", "relay"),
        ("event", "stream opened"),
        ("stream_id", "00000000000000ff"),
        ("peer", "outrelay://acme/operator/ada"),
    ]


def test_text_is_one_line_for_people(stream: io.StringIO) -> None:
    logs.configure("relay", "text", "info", stream)

    log.warning("stream ended", code=ErrorCode.LEG_LOST, reason="path lost", peer="")

    clock, rest = stream.getvalue().rstrip("\n").split(" ", 1)
    assert time.strptime(clock.split(".")[0], "%H:%M:%S")
    assert rest == "WARNING stream ended code=2 reason='path lost' peer=''"


@pytest.mark.parametrize("fmt", logs.FORMATS)
@pytest.mark.parametrize("evil", ["a\nb", "a\rb", "\x1b[2J", "a b", '"', "\u202e", "\ud800"])
def test_what_a_peer_sends_stays_on_its_line(stream: io.StringIO, fmt: str, evil: str) -> None:
    logs.configure("relay", fmt, "info", stream)

    log.info("stream ended", reason=evil)
    log.info(evil)

    text = stream.getvalue()
    assert text.count("\n") == 2
    assert text.replace("\n", "").isprintable()
    if fmt == "json":
        assert lines(stream)[0]["reason"] == evil


@pytest.mark.parametrize("fmt", logs.FORMATS)
def test_colours_are_for_terminals_and_text(fmt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, file, plain = Terminal(), io.StringIO(), Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)

    logs.configure("relay", fmt, "info", terminal)
    log.info("ready", address="127.0.0.1:1")
    logs.configure("relay", fmt, "info", file)
    log.info("ready")
    monkeypatch.setenv("NO_COLOR", "1")
    logs.configure("relay", fmt, "info", plain)
    log.info("ready")

    assert ("\x1b[" in terminal.getvalue()) == (fmt == "text")
    assert "\x1b[" not in file.getvalue()
    assert "\x1b[" not in plain.getvalue()


@pytest.mark.parametrize("level", logs.LEVELS)
def test_lines_below_the_level_are_not_written(stream: io.StringIO, level: str) -> None:
    logs.configure("relay", "json", level, stream)

    for name in logs.LEVELS:
        getattr(log, name)("event")

    written = [line["level"] for line in lines(stream)]
    assert written == list(logs.LEVELS[logs.LEVELS.index(level) :])
    assert log.isEnabledFor(logging.DEBUG) == (level == "debug")


def test_a_second_configuration_replaces_the_first(stream: io.StringIO) -> None:
    logs.configure("relay", "json", "debug", stream)
    second = io.StringIO()
    logs.configure("agent", "json", "info", second)

    log.info("ready")

    assert stream.getvalue() == ""
    assert [line["component"] for line in lines(second)] == ["agent"]


def test_libraries_speak_from_warning_on_and_the_noisy_from_error_on(stream: io.StringIO) -> None:
    logs.configure("relay", "json", "debug", stream)

    for name in ("grpc._server", "quic", "asyncio"):
        library = logging.getLogger(name)
        library.info("chatter")
        library.warning("a peer sent %s", "nonsense")
        library.error("broken")

    said = [(line["logger"], line["event"]) for line in lines(stream)]
    assert said == [
        ("grpc._server", "a peer sent nonsense"),
        ("grpc._server", "broken"),
        ("quic", "broken"),
        ("asyncio", "broken"),
    ]


def test_python_warnings_are_lines_too(stream: io.StringIO) -> None:
    logs.configure("relay", "json", "info", stream)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old ways", UserWarning, stacklevel=1)
        logging.captureWarnings(capture=False)

    (line,) = lines(stream)
    assert line["logger"] == "py.warnings"
    assert "old ways" in str(line["event"])


@pytest.mark.parametrize("fmt", logs.FORMATS)
def test_a_trace_follows_its_line(stream: io.StringIO, fmt: str) -> None:
    logs.configure("relay", fmt, "info", stream)

    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        log.exception("task failed", task="x")

    if fmt == "json":
        (line,) = lines(stream)
        assert str(line["exception"]).endswith("ZeroDivisionError: division by zero")
        assert "exc_info" not in line
    else:
        first, *trace = stream.getvalue().splitlines()
        assert first.endswith("ERROR   task failed task=x")
        assert trace[-1] == "ZeroDivisionError: division by zero"


def test_a_librarys_trace_follows_its_line_too(stream: io.StringIO) -> None:
    logs.configure("relay", "json", "info", stream)
    try:
        raise LookupError("nowhere")
    except LookupError:
        logging.getLogger("grpc._server").exception("broken: %s", {"event": 1})
    logging.getLogger("grpc._server").error({"no": "event of ours"})

    traced, plain = lines(stream)
    assert (traced["event"], traced["logger"]) == ("broken: {'event': 1}", "grpc._server")
    assert "LookupError: nowhere" in str(traced["exception"])
    assert plain["event"] == "{'no': 'event of ours'}"


class Watched(io.StringIO):
    """A stream that tells when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Event()

    def flush(self) -> None:
        self.written.set()


async def test_within_a_loop_lines_are_written_a_moment_later() -> None:
    stream = Watched()
    logs.configure("relay", "json", "info", stream)

    log.info("ready")
    log.info("stream opened")
    at_once = stream.getvalue()
    await stream.written.wait()

    assert at_once == ""
    assert [line["event"] for line in lines(stream)] == ["ready", "stream opened"]


@pytest.mark.parametrize("urgent", ["warning", "error"])
async def test_a_warning_is_written_at_once_behind_what_waits(
    stream: io.StringIO, urgent: str
) -> None:
    logs.configure("relay", "json", "info", stream)

    log.info("ready")
    getattr(log, urgent)("task failed")

    assert [line["event"] for line in lines(stream)] == ["ready", "task failed"]


async def test_what_a_thread_says_is_written_at_once_behind_what_waits(
    stream: io.StringIO,
) -> None:
    logs.configure("relay", "json", "info", stream)

    log.info("ready")
    await asyncio.to_thread(log.info, "stream opened")

    assert [line["event"] for line in lines(stream)] == ["ready", "stream opened"]


async def test_so_many_lines_may_wait(stream: io.StringIO) -> None:
    logs.configure("relay", "json", "info", stream)

    for _ in range(logs.MOST - 1):
        log.info("ready")
    before = stream.getvalue()
    log.info("ready")

    assert before == ""
    assert len(lines(stream)) == logs.MOST


async def test_another_configuration_writes_what_waits_for_the_first(stream: io.StringIO) -> None:
    logs.configure("relay", "json", "info", stream)

    log.info("ready")
    logs.configure("relay", "json", "info", io.StringIO())

    assert [line["event"] for line in lines(stream)] == ["ready"]


def test_lines_that_a_loop_has_left_behind_are_written_with_the_next(stream: io.StringIO) -> None:
    logs.configure("relay", "json", "info", stream)

    async def say(event: str) -> None:
        log.info(event)

    def run(event: str) -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(say(event))
        loop.close()

    run("one")
    left = stream.getvalue()
    run("two")
    log.info("three")

    assert left == ""
    assert [line["event"] for line in lines(stream)] == ["one", "two", "three"]


def test_a_process_that_ends_has_written_everything() -> None:
    program = """
import asyncio
from outrelay.lib.observe import logs

logs.configure("relay", "json", "info")

async def run():
    logs.get_logger("outrelay.relay").info("stopped")
    raise SystemExit(3)

asyncio.run(run())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert (ended.returncode, json.loads(ended.stderr)["event"]) == (3, "stopped")

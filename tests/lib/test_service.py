"""A service as a process: signals, exit codes, and what the operator reads on the way out."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator

import pytest

from outrelay.lib.errors import ConfigError, StoreError
from outrelay.lib.service import MOST_FILES, cause_of, serve

PROGRAM = """
import asyncio, resource, sys

resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
if sys.argv[4] == "plain":
    sys.modules["uvloop"] = None  # as where it is not installed

from outrelay.lib.errors import ConfigError, StoreError
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.service import serve

log = get_logger("outrelay.tests.program")

async def stops(stop):
    log.info("ready", loop=type(asyncio.get_running_loop()).__module__)
    await stop.wait()

async def reports(stop):
    log.error("ready")
    await stop.wait()

async def lingers(stop):
    log.info("ready")
    await stop.wait()
    log.info("lingering")
    await asyncio.Event().wait()

async def opens(stop):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    log.info("ready", soft=soft, hard=hard)

async def misconfigured(stop):
    raise ConfigError("relay.pem", "does not exist", "make one with dev-pki")

async def fails(stop):
    async with asyncio.TaskGroup() as group:
        group.create_task(stop.wait())
        raise StoreError("outrelay.db", "the disk is full")

async def crashes(stop):
    async with asyncio.TaskGroup() as group:
        group.create_task(misconfigured(stop))
        raise KeyError("bug")

serve("relay", globals()[sys.argv[1]], log_format=sys.argv[2], log_level=sys.argv[3])
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the program above; it is gone after the test."""
    started = []

    def call(
        behaviour: str, fmt: str = "json", level: str = "info", loop: str = "fast"
    ) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, behaviour, fmt, level, loop]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def event(process: subprocess.Popen[str]) -> dict[str, str]:
    """The next log line."""
    assert process.stderr is not None
    line: dict[str, str] = json.loads(process.stderr.readline())
    return line


def outcome(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and the rest of standard error."""
    _, text = process.communicate(timeout=30)
    return process.returncode, text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("loop", "module"), [("fast", "uvloop"), ("plain", "asyncio.unix_events")])
def test_a_signal_stops_the_service_in_good_order(
    start: Start, number: signal.Signals, loop: str, module: str
) -> None:
    process = start("stops", loop=loop)
    assert event(process)["loop"] == module

    process.send_signal(number)

    assert (event(process)["event"], event(process)["event"]) == ("stopping", "stopped")
    assert outcome(process) == (0, "")


@pytest.mark.parametrize(
    ("usual", "changes"),
    [
        ("info", [("info", "debug"), ("debug", "info")]),
        ("error", [("error", "debug"), ("debug", "error")]),
        ("debug", [("debug", "info"), ("info", "debug")]),
    ],
)
def test_sigusr1_changes_the_level_and_back(
    start: Start, usual: str, changes: list[tuple[str, str]]
) -> None:
    process = start("reports", level=usual)
    assert event(process)["event"] == "ready"

    for before, after in changes:
        process.send_signal(signal.SIGUSR1)
        line = event(process)
        assert line["event"] == "log level changed"
        assert (line["before"], line["to"], line["by"]) == (before, after, "SIGUSR1")


def test_a_process_may_have_as_many_files_as_it_can_get(start: Start) -> None:
    line = event(start("opens"))
    soft, hard = int(line["soft"]), int(line["hard"])
    assert soft == (min(hard, MOST_FILES) if hard > 0 else MOST_FILES)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_service_that_lingers(start: Start, number: signal.Signals) -> None:
    process = start("lingers")
    assert event(process)["event"] == "ready"
    process.send_signal(signal.SIGTERM)
    assert event(process)["event"] == "stopping"
    assert event(process)["event"] == "lingering"

    process.send_signal(number)

    line = event(process)
    assert (line["event"], line["signal"]) == ("stopping at once", number.name)
    assert outcome(process) == (1, "")


@pytest.mark.parametrize(
    ("behaviour", "code", "fault"),
    [
        ("misconfigured", 78, "relay.pem: does not exist; make one with dev-pki"),
        ("fails", 1, "outrelay.db: the disk is full"),
    ],
)
def test_an_error_for_the_operator_is_one_line(
    start: Start, behaviour: str, code: int, fault: str
) -> None:
    assert outcome(start(behaviour, "text")) == (code, f"outrelay-relay: {fault}\n")


def test_an_error_is_a_json_line_where_logs_are(start: Start) -> None:
    code, text = outcome(start("misconfigured", "json"))

    line = json.loads(text)
    assert code == 78
    assert (line["event"], line["component"]) == ("failed", "relay")
    assert line["error"] == "relay.pem: does not exist; make one with dev-pki"
    assert "exception" not in line


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_its_trace_is_for_debugging(start: Start, fmt: str) -> None:
    code, text = outcome(start("fails", fmt, "debug"))

    assert code == 1
    assert "the disk is full" in text
    assert "Traceback (most recent call last)" in text


def test_a_bug_is_reported_with_its_trace_and_never_hides_behind_a_fault(start: Start) -> None:
    code, text = outcome(start("crashes", "json"))

    line = json.loads(text)
    assert code == 1
    assert (line["level"], line["event"]) == ("error", "crashed")
    assert line["error"] == "KeyError('bug')"
    assert "Traceback (most recent call last)" in line["exception"]


# ---- in this process -----------------------------------------------------------------------


async def returns(stop: asyncio.Event) -> None:
    assert not stop.is_set()


async def interrupted(stop: asyncio.Event) -> None:
    signal.raise_signal(signal.SIGTERM)
    await stop.wait()


async def interrupted_twice(stop: asyncio.Event) -> None:
    await interrupted(stop)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.Event().wait()


async def misconfigured(stop: asyncio.Event) -> None:
    raise ConfigError("relay.pem", "does not exist")


async def fails(stop: asyncio.Event) -> None:
    raise StoreError("outrelay.db", "the disk is full")


async def crashes(stop: asyncio.Event) -> None:
    raise KeyError("bug")


@pytest.mark.parametrize(
    ("run", "code", "said"),
    [
        (returns, 0, "stopped"),
        (interrupted, 0, "stopping signal=SIGTERM"),
        (interrupted_twice, 1, "stopping at once signal=SIGTERM"),
        (misconfigured, 78, "outrelay-relay: relay.pem: does not exist"),
        (fails, 1, "outrelay-relay: outrelay.db: the disk is full"),
        (crashes, 1, "crashed error="),
    ],
)
def test_exit_codes(
    run: Callable[[asyncio.Event], Coroutine[None, None, None]],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_:
        serve("relay", run, log_format="text", log_level="info")

    assert exit_.value.code == code
    assert said in capsys.readouterr().err


def test_the_cause_is_a_bug_then_a_fault_then_the_first() -> None:
    bug, fault, store = KeyError(1), ConfigError("a", "b"), StoreError("c", "d")

    assert cause_of(store) is store
    assert cause_of(ExceptionGroup("", [store, StoreError("e", "f")])) is store
    assert cause_of(ExceptionGroup("", [store, ExceptionGroup("", [fault])])) is fault
    assert cause_of(ExceptionGroup("", [fault, ExceptionGroup("", [store, bug])])) is bug

"""The helper for programs sees what they log, stops them all, and says who would not."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.processes import OWN_PORTS, Program, Programs, run

pytestmark = pytest.mark.both_loops

SERVICE = """
import json, os, signal, sys, threading, time
while time.process_time() < 0.03:  # the kernel counts in hundredths
    pass
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
def log(event, **fields):
    print(json.dumps({"event": event, **fields}), file=sys.stderr, flush=True)
print("not json", file=sys.stderr, flush=True)
log("listening", address="[::1]:2", service="debug")
log("listening", address="127.0.0.1:%s" % os.environ.get("PORT", 1), listener="quic")
log("ready", ours=[name for name in os.environ if name.startswith("OUTRELAY_")])
stop.wait()
log("stopped")
sys.exit(3)
"""
STUBBORN = SERVICE.replace("stop.set()", "None")


async def start(programs: Programs, text: str, **env: str) -> Program:
    return await programs.start(sys.executable, "-c", text, env=env, json_log=False)


async def test_a_program_is_followed_from_start_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRELAY_RELAY_LISTEN", "127.0.0.1:7443")
    async with Programs() as programs:
        program = await start(programs, SERVICE, PORT="7001")
        assert await program.listening() == ("127.0.0.1", 7001)
        assert await program.listening(service="debug") == ("::1", 2)
        assert (await program.event("ready"))["ours"] == [*OWN_PORTS]
        assert program.rss() > 1 << 20
        assert program.cpu() > 0
        assert program.running
        mark = program.mark()
        assert await program.stop() == 3
        await program.event("stopped", since=mark)
        assert not program.seen("ready", since=mark)
        program.send_signal(signal.SIGTERM)  # too late, and no error
    assert program.lines[0] == "not json"


async def test_an_event_that_does_not_come_shows_the_log() -> None:
    async with Programs() as programs:
        program = await start(programs, SERVICE)
        await program.event("ready")
        with pytest.raises(AssertionError, match=r"(?s)did not log 'ready' .*elsewhere.*not json"):
            await program.event("ready", timeout=0.01, where="elsewhere")
        program.send_signal(signal.SIGTERM)
        with pytest.raises(AssertionError, match="ended without 'more'"):
            await program.event("more")


async def test_programs_left_running_are_stopped() -> None:
    async with Programs() as programs:
        one, other = await start(programs, SERVICE), await start(programs, SERVICE)
        for program in (one, other):
            await program.event("ready")
        other.send_signal(signal.SIGSTOP)
    assert not psutil.pid_exists(one.pid)
    assert not psutil.pid_exists(other.pid)


async def test_a_program_that_does_not_stop_is_killed_and_fails_the_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.support.processes.STOP_TIMEOUT", 0.2)
    with pytest.raises(AssertionError, match=r"(?s)had to kill .*ready"):
        async with Programs() as programs:
            program = await start(programs, STUBBORN)
            await program.event("ready")
            with pytest.raises(AssertionError, match="still runs"):
                await program.stop(timeout=0.01)
    assert not psutil.pid_exists(program.pid)


async def test_a_failing_test_keeps_its_own_error() -> None:
    with pytest.raises(RuntimeError, match="the test's"):
        async with Programs() as programs:
            program = await start(programs, SERVICE)
            raise RuntimeError("the test's")
    assert not psutil.pid_exists(program.pid)


async def test_run_gives_code_and_output(tmp_path: Path) -> None:
    text = (
        "import sys, os; print(os.getcwd()); print(sys.stdin.read(), file=sys.stderr); sys.exit(4)"
    )
    output = await run(sys.executable, "-c", text, cwd=tmp_path, stdin=b"typed")
    assert (output.code, output.stdout, output.stderr) == (4, f"{tmp_path}\n", "typed\n")


async def test_run_kills_what_does_not_end() -> None:
    with pytest.raises(AssertionError, match="did not end"):
        await run(sys.executable, "-c", "import time; time.sleep(100)", timeout=0.3)


async def test_a_script_that_is_not_installed_is_named() -> None:
    with pytest.raises(AssertionError, match="outrelay-nothing is not installed"):
        await run("outrelay-nothing")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("print('Traceback', file=sys.stderr)", "wrote a bad line, it is no JSON: Traceback"),
        ("print('{}', file=sys.stderr)", "wrote a bad line, ts_unix_ms is no integer: {}"),
    ],
)
async def test_log_lines_are_as_the_vocabulary_has_them(text: str, fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        async with Programs() as programs:
            program = await programs.start(sys.executable, "-c", f"import sys; {text}")
            assert await program.ended() == 0


async def test_what_is_wrong_with_a_command_line_is_told_as_text() -> None:
    async with Programs() as programs:
        text = "import sys; print('Usage: ...', file=sys.stderr); sys.exit(2)"
        program = await programs.start(sys.executable, "-c", text)
        assert await program.ended() == 2

"""Programs of the demo and the benchmark: waited for, told of when they fail, stopped."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrelay.tools import programs
from outrelay.tools.programs import Program, ProgramFailedError

SERVICE = """
import json, os, signal, sys, threading
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
def log(event, **fields):
    print(json.dumps({"event": event, "level": "info", **fields}), file=sys.stderr, flush=True)
print("not json", file=sys.stderr, flush=True)
log("listening", service="one", address="127.0.0.1:1")
log("listening", service="two", address="127.0.0.1:2")
log("ready", ours=[name for name in os.environ if name.startswith("OUTRELAY_")])
stop.wait()
sys.exit(3)
"""
DIES = "import sys; print('that was it', file=sys.stderr); sys.exit(7)"
STUBBORN = SERVICE.replace("stop.set()", "None")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to run in, where the interpreter is the script."""
    monkeypatch.setattr(programs, "script_path", lambda _: sys.executable)
    return tmp_path


@pytest.fixture
def service(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    monkeypatch.setenv("OUTRELAY_AGENT_RELAY", "elsewhere:1")
    program = Program("outrelay-agent", ["-c", SERVICE], directory=here, name="provider")
    yield program
    assert program.stop() == 3


def test_a_line_is_found_by_its_event_and_fields(service: Program) -> None:
    assert service.wait_for("listening")["address"] == "127.0.0.1:1"
    assert service.wait_for("listening", fields={"service": "two"})["address"] == "127.0.0.1:2"
    assert service.wait_for("ready")["ours"] == []  # no variable of ours is passed on
    assert service.name == "provider"
    assert service.log[0] == "not json"
    assert service.log[1] == "INFO    listening service=one address=127.0.0.1:1"


def test_what_is_not_said_in_time_is_an_error_with_the_log(service: Program) -> None:
    service.wait_for("ready")
    with pytest.raises(ProgramFailedError, match=r"(?s)provider did not say 'more'.*not json"):
        service.wait_for("more", timeout=0.01)


def test_a_program_that_died_is_an_error_with_its_last_words(here: Path) -> None:
    program = Program("outrelay-relay", ["-c", DIES], directory=here)
    with pytest.raises(ProgramFailedError, match=r"(?s)relay ended with exit code 7.*that was it"):
        program.wait_for("ready")
    assert program.stop() == 7


def test_a_program_that_does_not_stop_is_killed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "STOP_TIMEOUT", 0.01)
    program = Program("outrelay-relay", ["-c", STUBBORN], directory=here)
    program.wait_for("ready")
    assert program.stop() == -signal.SIGKILL


def test_run_gives_all_output_in_its_order(here: Path) -> None:
    text = "import os, sys; print(os.environ['A'], flush=True); sys.exit(os.environ['B'])"
    done = programs.run("x", ["-c", text], directory=here, environment={"A": "one", "B": "two"})
    assert (done.returncode, done.stdout) == (1, "one\ntwo\n")


def test_a_signal_takes_effect_after_the_block() -> None:
    steps = []
    # Who is started in the background of a shell script inherits a SIGINT that is ignored.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            with programs.signals_held():
                signal.raise_signal(signal.SIGINT)
                steps.append("held")
            steps.append("not reached")
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert steps == ["held"]


def test_scripts_are_beside_the_interpreter() -> None:
    assert Path(programs.script_path("outrelay-agent")).exists()
    line = programs.command_line("outrelay-agent", ["--expose", "a b"])
    assert line == "outrelay-agent --expose 'a b'"

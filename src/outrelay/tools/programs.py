"""OutRelay's own programs as child processes, for the demo and the benchmark.

A ``Program`` runs in a process group of its own: a Ctrl-C at the terminal reaches only the
parent, which then stops its children in an order that makes sense. Its log is JSON in a file,
which costs nobody anything while it is written; ``wait_for("listening")`` gives the line as
soon as it is there.

``run`` is for programs that end by themselves (``outrelay-cli``). No program inherits the
variables that would be its flags. ``signals_held`` keeps a Ctrl-C from coming between the
start of a child and the note of it.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from outrelay.lib.errors import OutRelayError

START_TIMEOUT = 20.0
"""Seconds a program has for each thing it is to log."""

STOP_TIMEOUT = 15.0
"""Seconds it has to stop; the programs' own bounds are below that."""

OWN_PORT = ("--debug-listen", "127.0.0.1:0")
"""Flags by which a service does not meet at one port with another that runs here."""

_TAIL = 12
_GLANCE = 0.02
"""Seconds between looks at a log."""

Line = Mapping[str, object]


class ProgramFailedError(OutRelayError):
    """A program ended, or did not do in time what it was started for.

    Args:
        program: Its name.
        fault: What it did, or did not.
        log: The last lines it wrote.
    """

    def __init__(self, program: str, fault: str, log: Sequence[str]) -> None:
        super().__init__(program, fault, log)
        self.program = program
        self.fault = fault
        self.log = log

    def __str__(self) -> str:
        return "\n".join([f"{self.program} {self.fault}; its last words:", *self.log])


class Program:
    """A program that runs until it is stopped.

    Args:
        script: Its console script, ``outrelay-relay``; or a module, which has a dot.
        arguments: Its command line; the form of the log is added.
        directory: Where it runs, and where its log goes.
        name: What to call it, where there are several of the script.
        within: What to put before its command; it keeps its process id.
    """

    def __init__(
        self,
        script: str,
        arguments: Sequence[str],
        *,
        directory: Path,
        name: str = "",
        within: Sequence[str] = (),
    ) -> None:
        self.name = name or script.removeprefix("outrelay-")
        self._log = directory / f"{self.name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*within, *_command(script), *arguments, "--log-format", "json"],
                cwd=directory,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                process_group=0,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def log(self) -> Sequence[str]:
        """The last lines it wrote, in a form for people."""
        return [readable(line) for line in self._lines()[-_TAIL:]]

    def wait_for(
        self, event: str, *, fields: Line | None = None, timeout: float = START_TIMEOUT
    ) -> Line:
        """The first log line with this event and these fields, as soon as there is one.

        Raises:
            ProgramFailedError: None came in ``timeout`` seconds, or it ended without one.
        """
        wanted = {"event": event, **(fields or {})}.items()
        deadline = time.monotonic() + timeout
        while True:
            code = self._process.poll()  # before the look at the log: it may end in between
            for line in map(_parsed, self._lines()):
                if line is not None and wanted <= line.items():
                    return line
            if code is not None:
                raise ProgramFailedError(self.name, f"ended with exit code {code}", self.log)
            if time.monotonic() > deadline:
                fault = f"did not say {event!r} within {timeout:g} s"
                raise ProgramFailedError(self.name, fault, self.log)
            time.sleep(_GLANCE)

    def stop(self) -> int:
        """Ask it to stop and give its exit code; one that does not is killed (code -9)."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self._process.kill()
        self._process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def _lines(self) -> list[str]:
        return self._log.read_text(errors="replace").splitlines()


def run(
    script: str,
    arguments: Sequence[str],
    *,
    directory: Path,
    environment: dict[str, str],
    within: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its output, both kinds in the order it came, is ``stdout``.

    Args:
        script: Its console script.
        arguments: Its command line.
        directory: Where it runs.
        environment: Variables to add.
        within: What to put before its command.
    """
    return subprocess.run(
        [*within, script_path(script), *arguments],
        cwd=directory,
        env=_environment() | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=START_TIMEOUT,
        check=False,
    )


@contextmanager
def signals_held() -> Iterator[None]:
    """Let a SIGINT or SIGTERM that comes in the block take effect after it."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda held, _frame: came.append(held))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for held in came[:1]:
            signal.raise_signal(held)


def stop_on_signals() -> None:
    """Have SIGTERM raise KeyboardInterrupt, as SIGINT does, so that whatever runs is stopped."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def script_path(script: str) -> str:
    """Where a console script is: beside the interpreter that runs us."""
    return str(Path(sys.executable).with_name(script))


def _command(script: str) -> list[str]:
    return [sys.executable, "-m", script] if "." in script else [script_path(script)]


def command_line(script: str, arguments: Sequence[str]) -> str:
    """The line to type for it."""
    return shlex.join([script, *arguments])


def readable(text: str) -> str:
    """A line of a JSON log for people; any other line as it is."""
    line = _parsed(text)
    if line is None:
        return text
    hidden = {"ts_unix_ms", "level", "component", "event"}
    fields = [f"{key}={value}" for key, value in line.items() if key not in hidden]
    return " ".join([str(line.get("level", "")).upper().ljust(7), str(line["event"]), *fields])


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("OUTRELAY_")}


def _parsed(text: str) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "event" in line else None

"""OutRelay's programs as processes of their own, started by their console scripts.

A test sees of them what an operator sees: exit codes, output, log lines, signals, memory.

    async with Programs() as programs:
        relay = await programs.start("outrelay-relay", "--listen", "127.0.0.1:0")
        host, port = await relay.listening()
        await relay.event("ready")
        ...
        assert await relay.stop() == 0

Whatever still runs at the end of the ``with`` is stopped, by SIGKILL if it must be, and a
program that had to be killed fails the test, as does one that wrote a log line which is not as
the vocabulary of events has it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from outrelay.lib.service import EXIT_CONFIG, EXIT_USAGE
from tests.support.log_lines import fault_in_line
from tests.support.patience import PATIENCE

Fields = Mapping[str, object]

LOG_ARGS = ("--log-format", "json")
LINE_MAX = 1 << 20

OWN_PORTS = {
    f"OUTRELAY_{service}_DEBUG_LISTEN": "127.0.0.1:0"
    for service in ("RELAY", "AGENT", "CONTROLLER")
}
"""Variables by which services that run at once do not meet at one port."""

INSIDE = frozenset({"debug", "health"})
"""Listeners that show the program itself; they are not what it is started for."""

ENGINE = os.environ.get("TEST_QUIC_ENGINE", "aioquic")
"""The packet engine that programs run on unless a test says: one that is on every machine."""

STOP_TIMEOUT = PATIENCE
"""Seconds a program has to stop when the test is over."""

TAIL = 30
"""Log lines shown when something does not come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a program that has ended left."""

    code: int
    stdout: str
    stderr: str


class Program:
    """One running process; made by ``Programs.start``."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, *, is_checked: bool = False
    ) -> None:
        self.name = name
        self.process = process
        self.fault = ""
        """What is wrong with the first of its log lines that is not as it should be."""
        self._is_checked = is_checked
        self.lines: list[str] = []
        """Everything it has written to stderr."""
        self.events: list[Fields] = []
        """Its log lines, as JSON has them."""
        self._changed = asyncio.Event()
        self._log_ended = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.returncode is None

    @property
    def refused(self) -> bool:
        """Whether it ended for its command line or configuration: that is told before it logs."""
        return self.process.returncode in (EXIT_USAGE, EXIT_CONFIG)

    def rss(self) -> int:
        """Resident memory, bytes."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def files(self) -> int:
        """Descriptors it has open."""
        return int(psutil.Process(self.pid).num_fds())

    def threads(self) -> int:
        """Threads it has."""
        return int(psutil.Process(self.pid).num_threads())

    def cpu(self) -> float:
        """Seconds of processor time used so far."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def mark(self) -> int:
        """A place in its log, for ``event(since=...)``: what comes later comes after it."""
        return len(self.events)

    def seen(self, event: str, *, since: int = 0, **fields: object) -> list[Fields]:
        """The log lines so far with this event and these fields."""
        return self._matching(event, since, fields)

    async def event(
        self, event: str, *, since: int = 0, timeout: float = PATIENCE, **fields: object
    ) -> Fields:
        """The first log line with this event and these fields, as soon as there is one.

        Args:
            event: The line's ``event``.
            since: Where to begin, a ``mark``.
            timeout: Seconds.
            fields: Further fields it must have.

        Raises:
            AssertionError: None came in time, or the program ended without one.
        """
        return await self._wait_for(event, since, timeout, fields)

    async def listening(self, **fields: object) -> tuple[str, int]:
        """Host and port of the first listener it announces with these fields.

        Those that show the program itself count only when they are asked for.
        """
        line = await self._wait_for("listening", 0, PATIENCE, fields)
        host, _, port = str(line["address"]).rpartition(":")
        return host.strip("[]"), int(port)

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal; one that has ended gets none."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def ended(self, *, timeout: float = PATIENCE) -> int:
        """Its exit code, once it has ended by itself; negative: the signal that killed it.

        Raises:
            AssertionError: It still runs.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self.process.wait()
        except TimeoutError:
            raise AssertionError(
                f"{self.name} still runs after {timeout:g} s\n{self.tail()}"
            ) from None

    async def stop(
        self, number: signal.Signals = signal.SIGTERM, *, timeout: float = PATIENCE
    ) -> int:
        """Ask it to stop; its exit code.

        Raises:
            AssertionError: It did not stop in time.
        """
        self.send_signal(number)
        return await self.ended(timeout=timeout)

    def tail(self) -> str:
        """The end of its log, for the message of a failed test."""
        return "\n".join([f"--- {self.name}, pid {self.pid} ---", *self.lines[-TAIL:]])

    async def follow(self) -> None:
        """Read its log until it ends."""
        assert self.process.stderr
        while line := await self.process.stderr.readline():
            self._add(line.decode(errors="replace").rstrip("\n"))
        self._log_ended = True
        self._changed.set()

    def _add(self, line: str) -> None:
        self.lines.append(line)
        if self._is_checked and not self.fault and (fault := fault_in_line(line)):
            self.fault = f"{self.name} wrote a bad line, {fault}: {line}"
        with suppress(ValueError):
            fields = json.loads(line)
            if isinstance(fields, dict):
                self.events.append(fields)
        self._changed.set()

    def _matching(self, event: str, since: int, fields: Fields) -> list[Fields]:
        wanted = {"event": event, **fields}
        skipped = INSIDE - {fields.get("service")} if event == "listening" else frozenset()
        return [
            line
            for line in self.events[since:]
            if wanted.items() <= line.items() and line.get("service") not in skipped
        ]

    async def _wait_for(self, event: str, since: int, timeout: float, fields: Fields) -> Fields:
        try:
            async with asyncio.timeout(timeout):
                while not (found := self._matching(event, since, fields)):
                    assert not self._log_ended, self._without(event, fields, "ended without")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            what = f"in {timeout:g} s did not log"
            raise AssertionError(self._without(event, fields, what)) from None
        return found[0]

    def _without(self, event: str, fields: Fields, what: str) -> str:
        return f"{self.name} {what} {event!r} {dict(fields)}\n{self.tail()}"


class Programs:
    """Starts programs and leaves none behind; an async context manager.

    Args:
        engine: The packet engine that relays and agents run on.
    """

    def __init__(self, engine: str = ENGINE) -> None:
        self._engine = engine
        self.all: list[Program] = []
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stubborn = await self._stop_all()
        await self._group.__aexit__(None, None, None)
        faults = [f"had to kill {each.tail()}" for each in stubborn]
        faults += [each.fault for each in self.all if each.fault and not each.refused]
        if faults and error is None:
            raise AssertionError("\n".join(faults))

    async def start(
        self,
        script: str,
        *args: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        json_log: bool = True,
        within: Sequence[str] = (),
    ) -> Program:
        """Start a program and follow its log.

        Args:
            script: A console script of the package, or a path.
            args: Its arguments; ``--log-format json`` is added.
            env: Variables to add; none of ours is inherited.
            cwd: Where it runs.
            json_log: False: add no argument, and do not check the lines.
            within: A command that runs it elsewhere, in its own place: ``ip netns exec NAME``.
        """
        process = await asyncio.create_subprocess_exec(
            *within,
            script_path(script),
            *map(str, args),
            *(LOG_ARGS if json_log else ()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_MAX,
            env=_environment({**_engine(script, self._engine), **(env or {})}),
            cwd=cwd,
        )
        program = Program(Path(script).name, process, is_checked=json_log)
        self.all.append(program)
        self._group.create_task(program.follow(), name=f"log of {program.name} {program.pid}")
        return program

    async def _stop_all(self) -> list[Program]:
        """Stop what runs; whoever had to be killed."""
        running = [program for program in self.all if program.running]
        for program in running:
            program.send_signal(signal.SIGTERM)
            program.send_signal(signal.SIGCONT)  # a stopped process takes no SIGTERM
        stubborn = []
        for program in running:
            try:
                await program.ended(timeout=STOP_TIMEOUT)
            except AssertionError:
                stubborn.append(program)
                program.send_signal(signal.SIGKILL)
                await program.process.wait()
        return stubborn


async def run(
    script: str,
    *args: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
    timeout: float = PATIENCE,
    within: Sequence[str] = (),
) -> Output:
    """Run a program to its end.

    Args:
        script: A console script of the package, or a path.
        args: Its arguments.
        env: Variables to add; none of ours is inherited.
        cwd: Where it runs.
        stdin: What it reads.
        timeout: Seconds, then it is killed.
        within: A command that runs it elsewhere, in its own place.

    Raises:
        AssertionError: It did not end in time.
    """
    process = await asyncio.create_subprocess_exec(
        *within,
        script_path(script),
        *map(str, args),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(env),
        cwd=cwd,
    )
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr = await process.communicate(stdin)
    except TimeoutError:
        raise AssertionError(f"{script} {args} did not end in {timeout:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Output(code=process.returncode, stdout=stdout.decode(), stderr=stderr.decode())


def script_path(script: str) -> str:
    """Where a console script is: beside the interpreter that runs the tests."""
    if os.sep in script:
        return script
    path = shutil.which(script, path=str(Path(sys.executable).parent))
    assert path, f"{script} is not installed beside {sys.executable}: run `make`"
    return path


def _engine(script: str, engine: str) -> dict[str, str]:
    """How a program is told which packet engine it runs on, if it has one."""
    component = script.removeprefix("outrelay-").upper()
    return {f"OUTRELAY_{component}_QUIC_ENGINE": engine} if component in ("RELAY", "AGENT") else {}


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("OUTRELAY_")
    }
    return {**inherited, **OWN_PORTS, **(extra or {})}

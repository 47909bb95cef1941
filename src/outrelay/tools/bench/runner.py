"""Runs the scenarios, through OutRelay and past it, and notes what every process used.

Words: a *path* is how the load's bytes go: ``direct`` (TCP, the baseline) or ``outrelay``
(consumer agent, relay, provider agent). A *round* measures every scenario over every path
once; paths alternate within it, so that a slow moment of the machine meets both. The first
round warms everything up and is discarded. Trials (``capacity``) are held once, through
OutRelay alone: those that want it fresh before all rounds, the others after them.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from outrelay.lib.errors import OutRelayError
from outrelay.lib.values import Address
from outrelay.tools.bench import capacity, procfs
from outrelay.tools.bench.capacity import Place, Reading, Size, Trial
from outrelay.tools.bench.procfs import Usage
from outrelay.tools.bench.scenarios import Scenario, Unit
from outrelay.tools.deployment import TENANT, Deployment

DIRECT, OUTRELAY = "direct", "outrelay"
PATHS = (DIRECT, OUTRELAY)

_SERVICE = "load"
_LOAD = (sys.executable, "-m", "outrelay.tools.bench.load")
_PATIENCE = 300.0
"""Seconds for one measurement."""

Tell = Callable[[str], None]


class BenchmarkError(OutRelayError):
    """The load broke off: what it moved was damaged, or a connection failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one process used during one measurement: CPU seconds, peak memory in bytes."""

    cpu_seconds: float
    peak_rss: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One scenario over one path in one round.

    Args:
        scenario: Its name.
        path: ``direct`` or ``outrelay``.
        round: From 1.
        values: MB/s or milliseconds, as the scenario has it.
        costs: By process name; the load's client has no peak.
    """

    scenario: str
    path: str
    round: int
    values: Sequence[float]
    costs: Mapping[str, Cost]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything one run found.

    Args:
        idle_rss: Memory before any load, bytes, by process.
        others_cores: Cores that programs other than ours kept busy while it ran.
        measurements: Of the rounds.
        readings: Of the trials.
    """

    idle_rss: Mapping[str, int]
    others_cores: float
    measurements: Sequence[Measurement]
    readings: Sequence[Reading] = ()


def run(
    scenarios: Sequence[Scenario],
    trials: Sequence[Trial],
    rounds: int,
    size: Size,
    directory: Path,
    tell: Tell,
) -> Results:
    """Measure everything.

    Args:
        scenarios: What to measure in rounds.
        trials: What to measure once.
        rounds: How often, not counting the one that warms up.
        size: Of the trials.
        directory: An empty one for certificates and databases.
        tell: Gets a word on what is going on.

    Raises:
        ProgramFailedError: One of OutRelay's programs did.
        BenchmarkError: The load did.
        TrialFailedError: A trial did.
    """
    with (
        _backend() as (backend, address),
        capacity.backend() as (echo, swarm),
        Deployment(directory) as deployment,
    ):
        tell("starting controller, relay and two agents")
        at = _start(deployment, {_SERVICE: address, capacity.SERVICE: swarm})
        pids = {program.name: program.pid for program in deployment.running}
        idle = {name: procfs.usage(pid).rss for name, pid in pids.items()}
        pids["backend"] = backend.pid
        others = _OthersClock([*pids.values(), echo.pid])
        place = Place(
            deployment=deployment, directory=directory, at=at[capacity.SERVICE], backend=swarm
        )
        readings = _hold([each for each in trials if each.fresh], place, size, tell)
        paths = {DIRECT: address, OUTRELAY: at[_SERVICE]}
        bench = _Bench(addresses=paths, pids=pids, tell=tell)
        for scenario in scenarios:
            bench.round(scenario, 0)
        measurements = [
            measurement
            for number in range(1, rounds + 1)
            for scenario in scenarios
            for measurement in bench.round(scenario, number)
        ]
        readings += _hold([each for each in trials if not each.fresh], place, size, tell)
        cores = others.cores()
    return Results(idle_rss=idle, others_cores=cores, measurements=measurements, readings=readings)


def _hold(trials: Sequence[Trial], place: Place, size: Size, tell: Tell) -> list[Reading]:
    readings: list[Reading] = []
    for trial in trials:
        tell(f"trial: {trial.name}")
        readings.extend(trial.hold(place, size))
    return readings


class _OthersClock:
    """Tells how busy the machine is with other things than the benchmark.

    Args:
        pids: The benchmark's processes that run, beside this one; those that come and go are
            known to the system once they have gone.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = (os.getpid(), *pids)
        self._started = time.monotonic()
        self._before = self._others()

    def cores(self) -> float:
        """Cores that others have kept busy since, on average."""
        elapsed = time.monotonic() - self._started
        return max(0.0, self._others() - self._before) / elapsed

    def _others(self) -> float:
        ours = sum(procfs.usage(pid).cpu_seconds for pid in self._pids)
        gone = resource.getrusage(resource.RUSAGE_CHILDREN)
        return procfs.machine_cpu_seconds() - ours - gone.ru_utime - gone.ru_stime


@contextmanager
def _backend() -> Iterator[tuple[subprocess.Popen[str], Address]]:
    with subprocess.Popen(
        [*_LOAD, "serve"], stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        try:
            assert process.stdout is not None
            yield process, ("127.0.0.1", int(process.stdout.readline()))
        finally:
            process.kill()


def _start(deployment: Deployment, backends: Mapping[str, Address]) -> Mapping[str, Address]:
    """Start everything; where the consumer listens for each service."""
    deployment.make_certificates()
    deployment.start_controller()
    deployment.cli(
        "policy", "add", "--tenant", TENANT,
        "--caller", "*", "--target", f"{_SERVICE}*", "--decision", "allow",
    )  # fmt: skip
    deployment.start_relay()
    deployment.start_provider(backends)
    return deployment.start_consumer(backends)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """The paths, the processes on them, and how to measure over one."""

    addresses: Mapping[str, Address]
    pids: Mapping[str, int]
    tell: Tell

    def round(self, scenario: Scenario, number: int) -> Sequence[Measurement]:
        """One scenario over both paths; every other round the other path goes first."""
        step = f"round {number}" if number else "warming up"
        self.tell(f"{step}: {scenario.name}")
        order = PATHS if number % 2 else PATHS[::-1]
        return [self._measure(scenario, path, number) for path in order]

    def _measure(self, scenario: Scenario, path: str, number: int) -> Measurement:
        for pid in self.pids.values():
            procfs.reset_peak(pid)
        before = self._usage()
        values, client_cpu = _load(scenario, self.addresses[path])
        after = self._usage()
        costs = {
            name: Cost(
                cpu_seconds=after[name].cpu_seconds - before[name].cpu_seconds,
                peak_rss=after[name].peak_rss,
            )
            for name in self.pids
        }
        costs["client"] = Cost(cpu_seconds=client_cpu, peak_rss=0)
        return Measurement(
            scenario=scenario.name, path=path, round=number, values=values, costs=costs
        )

    def _usage(self) -> Mapping[str, Usage]:
        return {name: procfs.usage(pid) for name, pid in self.pids.items()}


def _load(scenario: Scenario, address: Address) -> tuple[Sequence[float], float]:
    """The values of one measurement in the scenario's unit, and the client's CPU seconds."""
    numbers = (address[1], scenario.streams, scenario.amount)
    done = subprocess.run(
        [*_LOAD, scenario.operation, *map(str, numbers)],
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"{scenario.name}: {done.stderr.strip().splitlines()[-1]}")
    answer = json.loads(done.stdout)
    scale = 1e-6 if scenario.unit is Unit.RATE else 1e3
    return [value * scale for value in answer["values"]], answer["cpu_seconds"]

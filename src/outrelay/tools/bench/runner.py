"""Runs the scenarios, through OutRelay and past it, and notes what every process used.

A *round* measures every scenario over every route once; routes follow each other within it,
each round in the opposite order, so that a slow moment of the machine meets them all. The
first round warms everything up and is discarded. Trials (``capacity``) are held once, through
OutRelay over QUIC alone: those that want it fresh before all rounds, the others after them.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from outrelay.lib.errors import OutRelayError
from outrelay.tools.bench import capacity, procfs
from outrelay.tools.bench.capacity import Place, Reading, Size, Trial
from outrelay.tools.bench.procfs import Usage
from outrelay.tools.bench.routes import LOAD, Route, Tell, routes
from outrelay.tools.bench.scenarios import OURS, QUIC, Scenario, Unit

_PATIENCE = 300.0
"""Seconds for one measurement."""


class BenchmarkError(OutRelayError):
    """The load broke off: what it moved was damaged, or a connection failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one process used during one measurement: CPU seconds, peak memory in bytes."""

    cpu_seconds: float
    peak_rss: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One scenario over one route in one round.

    Args:
        scenario: Its name.
        route: The route's name.
        round: From 1.
        values: MB/s or milliseconds, as the scenario has it.
        costs: By name of the route's processes, the backend and the client, which has no peak.
    """

    scenario: str
    route: str
    round: int
    values: Sequence[float]
    costs: Mapping[str, Cost]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything one run found.

    Args:
        idle_rss: Memory before any load, bytes, by route of ours and process.
        others_cores: Cores that programs other than ours kept busy while it ran.
        measurements: Of the rounds.
        readings: Of the trials.
    """

    idle_rss: Mapping[str, Mapping[str, int]]
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
        capacity.backend() as (echo, swarm),
        routes(directory, {capacity.SERVICE: swarm}, tell) as ways,
    ):
        idle = {
            route.name: {name: procfs.usage(pid).rss for name, pid in route.pids.items()}
            for route in ways.routes
            if route.name in OURS
        }
        others = _OthersClock([*ways.pids, echo.pid])
        place = Place(
            deployment=ways.deployment,
            directory=directory / QUIC,
            at=ways.services[capacity.SERVICE],
            backend=swarm,
        )
        readings = _hold([each for each in trials if each.fresh], place, size, tell)
        bench = _Bench(routes=ways.routes, backend=ways.backend, tell=tell)
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
        if missing := trial.missing():
            tell(f"without {trial.name}: {missing}")
            continue
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """The routes, and how to measure over one."""

    routes: Sequence[Route]
    backend: int
    tell: Tell

    def round(self, scenario: Scenario, number: int) -> Sequence[Measurement]:
        """One scenario over all routes; every other round in the opposite order."""
        step = f"round {number}" if number else "warming up"
        self.tell(f"{step}: {scenario.name}")
        order = self.routes if number % 2 else self.routes[::-1]
        return [self._measure(scenario, route, number) for route in order]

    def _measure(self, scenario: Scenario, route: Route, number: int) -> Measurement:
        pids = {**route.pids, "backend": self.backend}
        for pid in pids.values():
            procfs.reset_peak(pid)
        before = _usage(pids)
        values, client_cpu = _load(scenario, route)
        after = _usage(pids)
        costs = {
            name: Cost(
                cpu_seconds=after[name].cpu_seconds - before[name].cpu_seconds,
                peak_rss=after[name].peak_rss,
            )
            for name in pids
        }
        costs["client"] = Cost(cpu_seconds=client_cpu, peak_rss=0)
        return Measurement(
            scenario=scenario.name, route=route.name, round=number, values=values, costs=costs
        )


def _usage(pids: Mapping[str, int]) -> Mapping[str, Usage]:
    return {name: procfs.usage(pid) for name, pid in pids.items()}


def _load(scenario: Scenario, route: Route) -> tuple[Sequence[float], float]:
    """The values of one measurement in the scenario's unit, and the client's CPU seconds."""
    numbers = (route.address[1], scenario.streams, scenario.amount_on(route.name))
    done = subprocess.run(
        [*LOAD, scenario.operation, *map(str, numbers)],
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

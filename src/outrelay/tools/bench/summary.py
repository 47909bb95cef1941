"""From measurements to the few numbers that people read, and to JSON."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from outrelay import __version__
from outrelay.tools.bench.runner import Measurement, Results
from outrelay.tools.bench.scenarios import MIB, TCP, Scenario, Unit

IDLE_GOALS = {"consumer": 70 * MIB, "provider": 70 * MIB, "relay": 80 * MIB}
"""At most this much memory before any load, bytes."""
GROWTH_GOALS = {(TCP, "relay"): 40 * MIB}
"""At most this much more under load, bytes, by route and process."""
CHARGED = ("consumer", "relay", "provider")
"""The processes whose CPU is what a route costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One scenario over one route, all rounds together.

    Args:
        scenario: What was measured.
        route: The route's name.
        median: Of all values.
        low: The least value.
        high: The greatest.
        p99: The value that 99 of 100 do not exceed.
        goal: What the median is to be; 0 where there is none, or what it depends on was not
            measured.
        cpu_seconds: Mean of the rounds, by process.
        peak_rss: Greatest of the rounds, bytes, by process.
    """

    scenario: Scenario
    route: str
    median: float
    low: float
    high: float
    p99: float
    goal: float
    cpu_seconds: Mapping[str, float]
    peak_rss: Mapping[str, int]

    @property
    def good(self) -> bool:
        """Whether the median reaches the goal."""
        least = self.scenario.unit is Unit.RATE
        return self.median >= self.goal if least else self.median <= self.goal

    def cpu_per_unit(self, process: str) -> float:
        """CPU of a process: seconds per GB for a rate, milliseconds per repetition for a delay."""
        scenario = self.scenario
        moved = scenario.streams * scenario.amount_on(self.route)
        per = moved / 1e9 if scenario.unit is Unit.RATE else moved / 1e3
        return self.cpu_seconds[process] / per

    @property
    def cpu_goal(self) -> float:
        """What ``cpu`` is to be, at most; 0 where there is no goal."""
        goal = self.scenario.goals.get(self.route)
        return goal.cpu if goal else 0.0

    @property
    def cpu(self) -> float:
        """CPU of consumer, relay and provider together, in the same unit."""
        return sum(map(self.cpu_per_unit, CHARGED))


def figures(scenarios: Sequence[Scenario], measurements: Sequence[Measurement]) -> list[Figure]:
    """One figure for each scenario and route."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for each in measurements:
        groups.setdefault((each.scenario, each.route), []).append(each)
    medians = {
        key: statistics.median(value for each in group for value in each.values)
        for key, group in groups.items()
    }
    by_name = {scenario.name: scenario for scenario in scenarios}
    found = []
    for (name, route), group in groups.items():
        goal = _goal(by_name[name], route, medians)
        found.append(_figure(by_name[name], route, group, goal=goal))
    return found


def _goal(scenario: Scenario, route: str, medians: Mapping[tuple[str, str], float]) -> float:
    goal = scenario.goals.get(route)
    if goal is None:
        return 0.0
    if not (goal.of_scenario or goal.of_route):
        return goal.value
    return goal.value * medians.get((goal.of_scenario or scenario.name, goal.of_route or route), 0)


def _figure(scenario: Scenario, route: str, group: Sequence[Measurement], *, goal: float) -> Figure:
    values = sorted(value for each in group for value in each.values)
    names = group[0].costs
    return Figure(
        scenario=scenario,
        route=route,
        median=statistics.median(values),
        low=values[0],
        high=values[-1],
        p99=values[min(len(values) - 1, len(values) * 99 // 100)],
        goal=goal,
        cpu_seconds={
            name: statistics.fmean(each.costs[name].cpu_seconds for each in group) for name in names
        },
        peak_rss={name: max(each.costs[name].peak_rss for each in group) for name in names},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a process of ours held, bytes.

    Args:
        route: The route's name.
        process: The process's name.
        idle: Before any load.
        peak: At most while it was loaded; the same where no load was measured.
    """

    route: str
    process: str
    idle: int
    peak: int

    @property
    def growth(self) -> int:
        """How much more it held under load."""
        return self.peak - self.idle


def memory(results: Results) -> list[Memory]:
    """What every process of ours held."""
    peaks: dict[tuple[str, str], int] = {}
    for each in results.measurements:
        for name, cost in each.costs.items():
            key = (each.route, name)
            peaks[key] = max(peaks.get(key, 0), cost.peak_rss)
    return [
        Memory(route=route, process=name, idle=rss, peak=max(rss, peaks.get((route, name), 0)))
        for route, processes in results.idle_rss.items()
        for name, rss in processes.items()
    ]


def document(
    scenarios: Sequence[Scenario], results: Results, *, started: str, rounds: int
) -> dict[str, object]:
    """Everything a run found, for a JSON file.

    Args:
        scenarios: What was measured.
        results: What was found.
        started: When, ISO 8601.
        rounds: How many.
    """
    return {
        "version": __version__,
        "started": started,
        "rounds": rounds,
        "machine": _machine(),
        "scenarios": [asdict(scenario) for scenario in scenarios],
        "others_cores": results.others_cores,
        "memory": [asdict(each) for each in memory(results)],
        "summary": [
            {**asdict(figure), "scenario": figure.scenario.name}
            for figure in figures(scenarios, results.measurements)
        ],
        "capacity": [
            {**asdict(reading), "judged": reading.judged, "good": reading.good}
            for reading in results.readings
        ],
        "measurements": [asdict(measurement) for measurement in results.measurements],
    }


def _machine() -> dict[str, object]:
    text = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": text.count("processor\t"),
        "system": platform.platform(),
        "python": platform.python_version(),
    }

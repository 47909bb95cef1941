"""From measurements to the few numbers that people read, and to JSON."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from outrelay import __version__
from outrelay.tools.bench.runner import Measurement, Results
from outrelay.tools.bench.scenarios import MIB, Scenario, Unit

IDLE_GOALS = {"consumer": 70 * MIB, "provider": 70 * MIB, "relay": 80 * MIB}
"""At most this much memory before any load, bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One scenario over one path, all rounds together.

    Args:
        scenario: What was measured.
        path: ``direct`` or ``outrelay``.
        median: Of all values.
        low: The least value.
        high: The greatest.
        p99: The value that 99 of 100 do not exceed.
        goal: What the median is to be; 0 where what it depends on was not measured.
        cpu_seconds: Mean of the rounds, by process.
        peak_rss: Greatest of the rounds, bytes, by process.
    """

    scenario: Scenario
    path: str
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
        moved = scenario.streams * scenario.amount
        per = moved / 1e9 if scenario.unit is Unit.RATE else moved / 1e3
        return self.cpu_seconds[process] / per


def figures(scenarios: Sequence[Scenario], measurements: Sequence[Measurement]) -> list[Figure]:
    """One figure for each scenario and path."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for each in measurements:
        groups.setdefault((each.scenario, each.path), []).append(each)
    medians = {
        key: statistics.median(value for each in group for value in each.values)
        for key, group in groups.items()
    }
    by_name = {scenario.name: scenario for scenario in scenarios}
    found = []
    for (name, path), group in groups.items():
        scenario = by_name[name]
        of = medians.get((scenario.share_of, path), 0.0) if scenario.share_of else 1.0
        found.append(_figure(scenario, path, group, goal=scenario.goal * of))
    return found


def _figure(scenario: Scenario, path: str, group: Sequence[Measurement], *, goal: float) -> Figure:
    values = sorted(value for each in group for value in each.values)
    names = group[0].costs
    return Figure(
        scenario=scenario,
        path=path,
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
        "idle_rss": dict(results.idle_rss),
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

"""Measurements as a run would make them."""

from __future__ import annotations

from collections.abc import Sequence

from outrelay.tools.bench.capacity import At, Reading
from outrelay.tools.bench.runner import Cost, Measurement
from outrelay.tools.bench.scenarios import CHAIN, DIRECT, MIB, QUIC, TCP, Scenario, Unit, scenarios

COST = Cost(cpu_seconds=2.0, peak_rss=60 * MIB)
NAMES = ("consumer", "relay", "provider", "controller", "backend", "client")
SCENARIOS = scenarios(quick=False)
ONE, SIXTEEN = SCENARIOS[0], SCENARIOS[2]
PINGS = SCENARIOS[5]
READINGS = (
    Reading(name="opens", unit="ms", values=[10, 20, 30], goal=100, errors=["reset"]),
    Reading(name="each", unit="KiB/s", values=[4, 9, 9], goal=5, at=At.LOWEST, at_least=True),
    Reading(name="start", unit="s", values=[3], goal=2, is_aim=True, note="slow"),
)


def measured(
    scenario: Scenario, values: Sequence[float], route: str = QUIC, number: int = 1
) -> Measurement:
    return Measurement(
        scenario=scenario.name,
        route=route,
        round=number,
        values=values,
        costs=dict.fromkeys(NAMES, COST),
    )


def everything() -> list[Measurement]:
    """Measurements of all scenarios: the first route the slowest, each next one faster."""
    return [
        measured(scenario, [10.0 * factor if scenario.unit is Unit.RATE else 10 / factor], route)
        for scenario in SCENARIOS
        for route, factor in ((QUIC, 1.0), (TCP, 2.0), (CHAIN, 3.0), (DIRECT, 30.0))
    ]

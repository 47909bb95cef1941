"""Figures from measurements, and the table and picture made of them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest
from rich.console import Console

from outrelay.tools.bench import plot, summary, table
from outrelay.tools.bench.runner import DIRECT, OUTRELAY, Cost, Measurement, Results
from outrelay.tools.bench.scenarios import MIB, Scenario, Unit, scenarios

COST = Cost(cpu_seconds=2.0, peak_rss=60 * MIB)
NAMES = ("consumer", "relay", "provider", "controller", "backend", "client")
SCENARIOS = scenarios(quick=False)
ONE, SIXTEEN = SCENARIOS[0], SCENARIOS[2]
PINGS = SCENARIOS[-1]


def measured(
    scenario: Scenario, values: Sequence[float], path: str = OUTRELAY, number: int = 1
) -> Measurement:
    return Measurement(
        scenario=scenario.name,
        path=path,
        round=number,
        values=values,
        costs=dict.fromkeys(NAMES, COST),
    )


def everything() -> list[Measurement]:
    """Measurements of all scenarios, ours slower than direct."""
    return [
        measured(scenario, [factor * 10.0], path)
        for scenario in SCENARIOS
        for path, factor in ((OUTRELAY, 1.0), (DIRECT, 30.0 if scenario.unit == "MB/s" else 0.01))
    ]


def shown(*figures: summary.Figure) -> str:
    out = io.StringIO()
    Console(file=out, width=table.WIDTH).print(table.speed(figures))
    return out.getvalue()


def test_rounds_become_one_figure() -> None:
    rounds = [measured(ONE, [rate], number=at) for at, rate in enumerate([9.0, 20.0, 14.0], 1)]
    (figure,) = summary.figures(SCENARIOS, rounds)
    assert (figure.median, figure.low, figure.high) == (14.0, 9.0, 20.0)
    assert figure.good
    assert figure.cpu_per_unit("relay") == pytest.approx(2.0 / (64 * MIB / 1e9))


def test_delays_have_a_p99_of_all_rounds() -> None:
    rounds = [measured(PINGS, [float(ms) for ms in range(at, 100, 2)], number=at) for at in (0, 1)]
    (figure,) = summary.figures(SCENARIOS, rounds)
    assert (figure.p99, figure.median) == (99.0, 49.5)
    assert not figure.good
    assert figure.cpu_per_unit("relay") == pytest.approx(2.0 / 400 * 1000)


def test_a_goal_can_be_a_share_of_another_scenario() -> None:
    one, sixteen = summary.figures(SCENARIOS, [measured(ONE, [20.0]), measured(SIXTEEN, [17.0])])
    assert (one.goal, sixteen.goal) == (12, 18.0)
    assert not sixteen.good
    (alone,) = summary.figures(SCENARIOS, [measured(SIXTEEN, [17.0])])
    assert alone.goal == 0


def test_the_document_is_json_and_holds_everything() -> None:
    results = Results(idle_rss={"relay": 70 * MIB}, others_cores=0.1, measurements=everything())
    written = summary.document(SCENARIOS, results, started="2026-01-01T00:00:00+00:00", rounds=1)
    read = json.loads(json.dumps(written))
    assert len(read["measurements"]) == 2 * len(SCENARIOS)
    assert read["summary"][0]["scenario"] == "upload"
    assert read["idle_rss"] == {"relay": 70 * MIB}
    assert read["machine"]["cores"] >= 1


def test_the_tables_say_whether_goals_are_met() -> None:
    text = shown(*summary.figures(SCENARIOS, everything()))
    assert "≥ 12 ✗" in text  # upload: 10 MB/s
    assert "≥ 9 ✓" in text  # 16 streams: as fast as one
    assert "≤ 8 ✗" in text
    out = io.StringIO()
    rss = {"controller": 90 * MIB, "relay": 70 * MIB, "consumer": 80 * MIB}
    Console(file=out).print(table.idle(rss))
    assert "≤ 80 ✓" in out.getvalue()
    assert "≤ 70 ✗" in out.getvalue()


def test_a_goal_that_depends_on_what_was_not_measured_is_not_shown() -> None:
    pair = [measured(SIXTEEN, [17.0], path) for path in (OUTRELAY, DIRECT)]
    assert "≥" not in shown(*summary.figures(SCENARIOS, pair))


def test_the_picture_is_well_formed_and_holds_every_scenario() -> None:
    picture = plot.svg(summary.figures(SCENARIOS, everything()), "a <caption>")
    texts = [text.text for text in ElementTree.fromstring(picture).iter() if text.text]
    assert {scenario.name for scenario in SCENARIOS} <= set(texts)
    assert "a <caption>" in texts
    assert "10.0 OutRelay" in texts
    assert "300.0 direct TCP →" in texts  # off the scale


def test_the_picture_of_one_unit_has_one_panel() -> None:
    rates = [each for each in everything() if each.scenario == ONE.name]
    picture = plot.svg(summary.figures(SCENARIOS, rates), "")
    assert Unit.DELAY + "," not in picture

"""The tables show figures and whether they reach their goals."""

from __future__ import annotations

import io

from rich.console import Console

from outrelay.tools.bench import summary, table
from outrelay.tools.bench.runner import DIRECT, OUTRELAY
from outrelay.tools.bench.scenarios import MIB
from tests.tools.bench.measurements import READINGS, SCENARIOS, SIXTEEN, everything, measured


def shown(*figures: summary.Figure) -> str:
    out = io.StringIO()
    Console(file=out, width=table.WIDTH).print(table.speed(figures))
    return out.getvalue()


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


def test_readings_show_what_is_judged_and_what_went_wrong() -> None:
    out = io.StringIO()
    Console(file=out, width=table.WIDTH).print(table.capacity(READINGS))
    opens, each, start = (line for line in out.getvalue().splitlines() if "│" in line)
    assert "median ≤ 100 ✗ │      1" in opens  # an error is a goal missed
    assert "lowest ≥ 5 ✗" in each
    assert "aim ≤ 2 ✗" in start
    assert "slow" in start

"""The tables show figures and whether they reach their goals."""

from __future__ import annotations

import io

from rich.console import Console

from outrelay.tools.bench import summary, table
from outrelay.tools.bench.scenarios import DIRECT, MIB, QUIC, TCP
from outrelay.tools.bench.summary import Memory
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
    assert "≥ 27 ✗" in text  # over tcp: 20 MB/s where the chain makes 30
    assert "≤ 5 ✗" in text  # CPU
    out = io.StringIO()
    held = [
        Memory(route=TCP, process="relay", idle=70 * MIB, peak=111 * MIB),
        Memory(route=QUIC, process="consumer", idle=80 * MIB, peak=80 * MIB),
        Memory(route=QUIC, process="controller", idle=90 * MIB, peak=90 * MIB),
    ]
    Console(file=out, width=table.WIDTH).print(table.memory(held))
    relay, consumer, controller = out.getvalue().splitlines()[4:7]
    assert "≤ 80 ✓" in relay
    assert "≤ 40 ✗" in relay
    assert "≤ 70 ✗" in consumer
    assert "≤" not in controller


def test_a_goal_that_depends_on_what_was_not_measured_is_not_shown() -> None:
    pair = [measured(SIXTEEN, [17.0], route) for route in (QUIC, DIRECT)]
    assert "≥" not in shown(*summary.figures(SCENARIOS, pair))


def test_readings_show_what_is_judged_and_what_went_wrong() -> None:
    out = io.StringIO()
    Console(file=out, width=table.WIDTH).print(table.capacity(READINGS))
    opens, each, start = out.getvalue().splitlines()[4:7]
    assert "median ≤ 100 ✗        1" in opens  # an error is a goal missed
    assert "lowest ≥ 5 ✗" in each
    assert "aim ≤ 2 ✗" in start
    assert "slow" in start

"""The tables a benchmark run ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from outrelay.tools.bench.capacity import At, Reading
from outrelay.tools.bench.runner import DIRECT, OUTRELAY
from outrelay.tools.bench.scenarios import MIB, Unit
from outrelay.tools.bench.summary import IDLE_GOALS, Figure

WIDTH = 140
"""Columns of a terminal that the tables need."""

_CHAIN = ("consumer", "relay", "provider")


def speed(figures: Sequence[Figure]) -> Table:
    """Rates and delays beside direct TCP, and what they cost."""
    table = Table(
        title="through consumer agent, relay and provider agent; direct TCP beside it",
        caption="CPU of consumer / relay / provider: s per GB moved, ms per repetition",
    )
    table.add_column("scenario")
    table.add_column("", style="dim")
    for heading in ("OutRelay", "lowest - highest", "p99", "goal", "direct TCP", "CPU", "peak MiB"):
        table.add_column(heading, justify="right")
    baselines = {each.scenario.name: each for each in figures if each.path == DIRECT}
    for figure in figures:
        if figure.path == OUTRELAY:
            table.add_row(*_speed_row(figure, baselines[figure.scenario.name]))
    return table


def _speed_row(figure: Figure, baseline: Figure) -> Sequence[str]:
    scenario = figure.scenario
    delay = scenario.unit is Unit.DELAY
    return (
        scenario.name,
        scenario.unit,
        f"[bold]{figure.median:.2f}[/]",
        f"{figure.low:.2f} - {figure.high:.2f}",
        f"{figure.p99:.2f}" if delay else "",
        _judged(figure),
        f"{baseline.median:.2f}" if delay else f"{baseline.median:.0f}",
        " / ".join(f"{figure.cpu_per_unit(name):.1f}" for name in _CHAIN),
        " / ".join(f"{figure.peak_rss[name] / MIB:.0f}" for name in _CHAIN),
    )


def _judged(figure: Figure) -> str:
    sign = "≥" if figure.scenario.unit is Unit.RATE else "≤"
    return _marked(f"{sign} {figure.goal:.3g}", good=figure.good) if figure.goal else ""


def _marked(text: str, *, good: bool) -> str:
    return f"[green]{text} ✓[/]" if good else f"[red]{text} ✗[/]"


def capacity(readings: Sequence[Reading]) -> Table:
    """What many at once come to."""
    table = Table(title="through OutRelay, many at once")
    table.add_column("reading")
    table.add_column("", style="dim")
    for heading in ("lowest", "median", "p99", "highest", "goal", "errors"):
        table.add_column(heading, justify="right")
    table.add_column("", style="dim")
    for each in readings:
        table.add_row(*_capacity_row(each))
    return table


def _capacity_row(reading: Reading) -> Sequence[str]:
    one = len(reading.values) == 1
    shown = [
        f"[bold]{reading.value(at):.4g}[/]" if at is reading.at else f"{reading.value(at):.4g}"
        for at in At
    ]
    sign = "≥" if reading.at_least else "≤"
    word = "aim " if reading.is_aim else ""
    which = "" if one else f"{reading.at} "
    return (
        reading.name,
        reading.unit,
        *(["", f"[bold]{reading.judged:.4g}[/]", "", ""] if one else shown),
        word + _marked(f"{which}{sign} {reading.goal:.4g}", good=reading.good),
        str(len(reading.errors)) if reading.errors else "",
        reading.note,
    )


def idle(rss: Mapping[str, int]) -> Table:
    """Memory before any load."""
    table = Table(title="memory at rest")
    table.add_column("process")
    table.add_column("MiB", justify="right")
    table.add_column("goal", justify="right")
    for name, value in rss.items():
        limit = IDLE_GOALS.get(name)
        goal = _marked(f"≤ {limit // MIB}", good=value <= limit) if limit else ""
        table.add_row(name, f"{value / MIB:.1f}", goal)
    return table

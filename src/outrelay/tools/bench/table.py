"""The tables a benchmark run ends with."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from outrelay.tools.bench.capacity import At, Reading
from outrelay.tools.bench.scenarios import CHAIN, DIRECT, MIB, OURS, Unit
from outrelay.tools.bench.summary import CHARGED, GROWTH_GOALS, IDLE_GOALS, Figure, Memory

WIDTH = 150
"""Columns of a terminal that the tables need."""


def speed(figures: Sequence[Figure]) -> Table:
    """Rates and delays of our routes beside the others, and what they cost."""
    table = Table(
        title="through consumer agent, relay and provider agent, beside what does without it",
        caption=(
            "chain: stunnel, HAProxy, stunnel; direct: TCP; "
            "CPU of consumer / relay / provider: s per GB moved, ms per repetition"
        ),
        box=box.SIMPLE,
    )
    table.add_column("scenario", no_wrap=True)
    table.add_column("", style="dim")
    table.add_column("over")
    headings = (
        "OutRelay",
        "lowest - highest",
        "p99",
        "goal",
        "chain",
        "direct",
        "CPU",
        "",
        "chain",
    )
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    by_key = {(each.scenario.name, each.route): each for each in figures}
    for name in dict.fromkeys(each.scenario.name for each in figures):
        others = [by_key.get((name, route)) for route in (CHAIN, DIRECT)]
        for route in OURS:
            if figure := by_key.get((name, route)):
                table.add_row(*_speed_row(figure, others))
    return table


def _speed_row(figure: Figure, others: Sequence[Figure | None]) -> Sequence[str]:
    scenario = figure.scenario
    delay = scenario.unit is Unit.DELAY
    return (
        scenario.name if figure.route == OURS[0] else "",
        scenario.unit if figure.route == OURS[0] else "",
        figure.route,
        f"[bold]{figure.median:.2f}[/]",
        f"{figure.low:.2f} - {figure.high:.2f}",
        f"{figure.p99:.2f}" if delay else "",
        _judged(figure),
        *(
            (f"{each.median:.2f}" if delay else f"{each.median:.0f}") if each else ""
            for each in others
        ),
        " / ".join(f"{figure.cpu_per_unit(name):.1f}" for name in CHARGED),
        _cpu(figure),
        f"{others[0].cpu:.1f}" if others[0] else "",
    )


def _cpu(figure: Figure) -> str:
    limit = figure.cpu_goal
    text = f"= {figure.cpu:.1f}"
    return _marked(f"{text} ≤ {limit:g}", good=figure.cpu <= limit) if limit else text


def _judged(figure: Figure) -> str:
    sign = "≥" if figure.scenario.unit is Unit.RATE else "≤"
    return _marked(f"{sign} {figure.goal:.3g}", good=figure.good) if figure.goal else ""


def _marked(text: str, *, good: bool) -> str:
    return f"[green]{text} ✓[/]" if good else f"[red]{text} ✗[/]"


def capacity(readings: Sequence[Reading]) -> Table:
    """What many at once come to."""
    table = Table(title="through OutRelay over QUIC, many at once", box=box.SIMPLE)
    table.add_column("reading")
    table.add_column("", style="dim")
    for heading in ("lowest", "median", "p99", "highest", "goal", "errors"):
        table.add_column(heading, justify="right", no_wrap=True)
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


def memory(held: Sequence[Memory]) -> Table:
    """Memory before and under load."""
    table = Table(title="memory, MiB", box=box.SIMPLE)
    table.add_column("process")
    table.add_column("over")
    for heading in ("at rest", "goal", "peak", "more under load", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in held:
        table.add_row(
            each.process,
            each.route,
            f"{each.idle / MIB:.1f}",
            _within(each.idle, IDLE_GOALS.get(each.process)),
            f"{each.peak / MIB:.1f}",
            f"{each.growth / MIB:.1f}",
            _within(each.growth, GROWTH_GOALS.get((each.route, each.process))),
        )
    return table


def _within(value: int, limit: int | None) -> str:
    return _marked(f"≤ {limit // MIB}", good=value <= limit) if limit else ""

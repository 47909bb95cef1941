"""One picture of a benchmark run, as SVG: bars for rates and delays, a line at each goal.

Readings of trials, which have a unit each, are shown as shares of their goals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from outrelay.tools.bench.capacity import Reading
from outrelay.tools.bench.runner import DIRECT, OUTRELAY
from outrelay.tools.bench.scenarios import Unit
from outrelay.tools.bench.summary import Figure

_WIDTH = 760
_LABELS = 170
_SCALE = 440
_ROW = 46
_BAR = 16
_LINE = 24
_READINGS = 330
_SHARES = 2.0
"""Times its goal that a bar of a reading is as long as it gets."""
_COLOURS = {OUTRELAY: "#2563eb", DIRECT: "#cbd5e1"}
_TITLES = {
    Unit.RATE: "MB/s, more is better; red: the goal",
    Unit.DELAY: "ms, less is better; red: the goal; the thin line reaches to p99",
}


def svg(figures: Sequence[Figure], readings: Sequence[Reading], caption: str) -> str:
    """The picture.

    Args:
        figures: Of both paths.
        readings: Of the trials.
        caption: One line below it.
    """
    parts: list[str] = []
    y = 30
    for unit in Unit:
        shown = [each for each in figures if each.scenario.unit is unit]
        if shown:
            parts.extend(_panel(unit, shown, y))
            y += 40 + _ROW * len({each.scenario.name for each in shown})
    if readings:
        parts.extend(_capacity(readings, y))
        y += 40 + _LINE * len(readings)
    size = f'width="{_WIDTH}" height="{y + 20}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">',
            '<rect width="100%" height="100%" fill="white"/>',
            *parts,
            _text(20, y, caption, fill="#64748b"),
            "</svg>\n",
        ]
    )


def _panel(unit: Unit, figures: Sequence[Figure], y: int) -> Iterator[str]:
    """The bars of one unit, all on a scale that our own results and goals set."""
    ours = [each for each in figures if each.path == OUTRELAY]
    top = max(max(each.median, each.goal, _tail(each)) for each in ours) * 1.05
    yield _text(20, y, _TITLES[unit], weight="bold")
    for row, figure in enumerate(ours):
        name = figure.scenario.name
        at = y + 14 + row * _ROW
        yield _text(20, at + 20, name)
        yield from _bar(figure, at, top)
        baseline = next(e for e in figures if e.path == DIRECT and e.scenario.name == name)
        yield from _bar(baseline, at + _BAR, top)
        if figure.goal:
            yield _goal(_LABELS + figure.goal / top * _SCALE, at)


def _capacity(readings: Sequence[Reading], y: int) -> Iterator[str]:
    """A bar for each reading, which ends at the red line where it is what the goal says."""
    title = "capacity: the value judged as a share of its goal; red: the goal"
    yield _text(20, y, title, weight="bold")
    for row, reading in enumerate(readings):
        at = y + 14 + row * _LINE
        share = reading.judged / reading.goal
        sign = "≥" if reading.at_least else "≤"
        length = min(share, _SHARES) / _SHARES * _SCALE / 2
        yield _text(20, at + 12, reading.name, size=11)
        yield (
            f'<rect x="{_READINGS}" y="{at}" width="{length:.1f}" height="{_BAR - 2}"'
            f' fill="{_COLOURS[OUTRELAY] if reading.good else "#dc2626"}"/>'
        )
        number = f"{reading.judged:.4g} ({sign} {reading.goal:.4g} {reading.unit})"
        yield _text(_READINGS + max(length, _SCALE / 2 / _SHARES) + 6, at + 12, number, size=11)
        yield _goal(_READINGS + _SCALE / 2 / _SHARES, at, _BAR)


def _tail(figure: Figure) -> float:
    return figure.p99 if figure.scenario.unit is Unit.DELAY else 0.0


def _bar(figure: Figure, y: int, top: float) -> Iterator[str]:
    """A bar with its number; one that is off the scale ends at it, and says so."""
    length = min(figure.median / top, 1.0) * _SCALE
    tail = min(_tail(figure) / top, 1.0) * _SCALE
    more = " →" if figure.median > top else ""
    yield (
        f'<rect x="{_LABELS}" y="{y}" width="{length:.1f}" height="{_BAR - 2}"'
        f' fill="{_COLOURS[figure.path]}"/>'
    )
    if tail > length:
        middle = y + _BAR / 2 - 1
        yield (
            f'<line x1="{_LABELS + length:.1f}" x2="{_LABELS + tail:.1f}" y1="{middle}"'
            f' y2="{middle}" stroke="{_COLOURS[figure.path]}" stroke-width="2"/>'
        )
    who = "OutRelay" if figure.path == OUTRELAY else "direct TCP"
    number = f"{figure.median:.1f}" if figure.median < 1000 else f"{figure.median:.0f}"
    yield _text(_LABELS + max(length, tail) + 6, y + 12, f"{number} {who}{more}", size=11)


def _goal(x: float, y: int, height: int = 2 * _BAR) -> str:
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 3}" y2="{y + height}"'
        ' stroke="#dc2626" stroke-dasharray="3 2"/>'
    )


def _text(
    x: float, y: float, text: str, *, size: int = 13, weight: str = "normal", fill: str = "#0f172a"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}"'
        f' fill="{fill}">{escape(text)}</text>'
    )

"""One picture of a benchmark run, as SVG: bars for rates and delays, a line at each goal.

Readings of trials, which have a unit each, are shown as shares of their goals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from outrelay.tools.bench.capacity import Reading
from outrelay.tools.bench.scenarios import CHAIN, DIRECT, OURS, QUIC, TCP, Unit
from outrelay.tools.bench.summary import Figure

_WIDTH = 800
_LABELS = 190
_SCALE = 440
_BAR = 16
_GAP = 12
_LINE = 24
_READINGS = 330
_SHARES = 2.0
"""Times its goal that a bar of a reading is as long as it gets."""
_COLOURS = {QUIC: "#2563eb", TCP: "#0d9488", CHAIN: "#94a3b8", DIRECT: "#cbd5e1"}
_NAMES = {
    QUIC: "OutRelay, QUIC",
    TCP: "OutRelay, TCP",
    CHAIN: "stunnel chain",
    DIRECT: "direct TCP",
}
_TITLES = {
    Unit.RATE: "MB/s, more is better; red: the goal",
    Unit.DELAY: "ms, less is better; red: the goal; the thin line reaches to p99",
}


def svg(figures: Sequence[Figure], readings: Sequence[Reading], caption: str) -> str:
    """The picture.

    Args:
        figures: Of all routes.
        readings: Of the trials.
        caption: One line below it.
    """
    parts: list[str] = []
    y = 30
    for unit in Unit:
        shown = [each for each in figures if each.scenario.unit is unit]
        if shown:
            parts.extend(_panel(unit, shown, y))
            y += 40 + _BAR * len(shown) + _GAP * len({each.scenario.name for each in shown})
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
    ours = [each for each in figures if each.route in OURS]
    top = max(max(each.median, each.goal, _tail(each)) for each in ours) * 1.05
    yield _text(20, y, _TITLES[unit], weight="bold")
    at, before = y + 14 - _GAP, ""
    for figure in _in_order(figures):
        if figure.scenario.name != before:
            before, at = figure.scenario.name, at + _GAP
            yield _text(20, at + 12, before)
        yield from _bar(figure, at, top)
        if figure.goal:
            yield _goal(_LABELS + figure.goal / top * _SCALE, at, _BAR)
        at += _BAR


def _in_order(figures: Sequence[Figure]) -> Sequence[Figure]:
    """Scenario by scenario, each with its routes as the legend has them."""
    names = list(dict.fromkeys(each.scenario.name for each in figures))
    routes = list(_COLOURS)
    return sorted(
        figures, key=lambda each: (names.index(each.scenario.name), routes.index(each.route))
    )


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
            f' fill="{_COLOURS[QUIC] if reading.good else "#dc2626"}"/>'
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
        f' fill="{_COLOURS[figure.route]}"/>'
    )
    if tail > length:
        middle = y + _BAR / 2 - 1
        yield (
            f'<line x1="{_LABELS + length:.1f}" x2="{_LABELS + tail:.1f}" y1="{middle}"'
            f' y2="{middle}" stroke="{_COLOURS[figure.route]}" stroke-width="2"/>'
        )
    number = f"{figure.median:.1f}" if figure.median < 1000 else f"{figure.median:.0f}"
    yield _text(
        _LABELS + max(length, tail) + 6, y + 12, f"{number} {_NAMES[figure.route]}{more}", size=11
    )


def _goal(x: float, y: int, height: int) -> str:
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

"""What is measured, and what we aim for.

Source: performance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

MIB = 1 << 20


class Unit(StrEnum):
    """What a scenario's values are."""

    RATE = "MB/s"
    DELAY = "ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One thing to measure.

    Args:
        name: Short, for tables.
        operation: What the load does; a word of ``load``.
        unit: What its values are.
        streams: Connections at once.
        amount: Bytes per connection for a rate, repetitions for a delay.
        goal: What the median is to be: at least, for a rate; at most, for a delay.
        share_of: Name of the scenario whose median the goal is a share of, where it is one.
    """

    name: str
    operation: str
    unit: Unit
    streams: int = 1
    amount: int
    goal: float
    share_of: str = ""


def scenarios(*, quick: bool) -> Sequence[Scenario]:
    """All scenarios; with ``quick`` as little of each as shows that it works."""
    total = (4 if quick else 64) * MIB
    times = 20 if quick else 200
    rate, delay = Unit.RATE, Unit.DELAY
    sixteenth = total // 16
    return (
        Scenario(name="upload", operation="up", unit=rate, amount=total, goal=12),
        Scenario(name="download", operation="down", unit=rate, amount=total, goal=12),
        Scenario(
            name="upload, 16 streams",
            operation="up",
            unit=rate,
            streams=16,
            amount=sixteenth,
            goal=0.9,
            share_of="upload",
        ),
        Scenario(
            name="download, 16 streams",
            operation="down",
            unit=rate,
            streams=16,
            amount=sixteenth,
            goal=0.9,
            share_of="download",
        ),
        Scenario(name="open to first byte", operation="open", unit=delay, amount=times, goal=8),
        Scenario(name="ping-pong 64 B", operation="echo", unit=delay, amount=2 * times, goal=3),
    )

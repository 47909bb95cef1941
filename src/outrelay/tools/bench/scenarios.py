"""What is measured, and what we aim for.

Source: performance.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

MIB = 1 << 20

QUIC, TCP, CHAIN, DIRECT = "quic", "tcp", "chain", "direct"
"""Names of the routes, of which the first two are ours."""
OURS = (QUIC, TCP)


class Unit(StrEnum):
    """What a scenario's values are."""

    RATE = "MB/s"
    DELAY = "ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a median is to be: at least, for a rate; at most, for a delay.

    Args:
        value: In the scenario's unit, or a share where the next two say of what.
        of_scenario: On the same route.
        of_route: In the same scenario.
        cpu: Consumer, relay and provider together, at most, seconds per GB; 0 is any.
    """

    value: float
    of_scenario: str = ""
    of_route: str = ""
    cpu: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One thing to measure.

    Args:
        name: Short, for tables.
        operation: What the load does; a word of ``load``.
        unit: What its values are.
        streams: Connections at once.
        amount: Bytes per connection for a rate, repetitions for a delay.
        goals: By route.
    """

    name: str
    operation: str
    unit: Unit
    streams: int = 1
    amount: int
    goals: Mapping[str, Goal]

    def amount_on(self, route: str) -> int:
        """The amount over a route: faster ones get more bytes, to be measured as long."""
        return self.amount if self.unit is Unit.DELAY or route == QUIC else _FASTER * self.amount


_FASTER = 8
_CPU = 5.0


def scenarios(*, quick: bool) -> Sequence[Scenario]:
    """All scenarios; with ``quick`` as little of each as shows that it works."""
    total = (4 if quick else 64) * MIB
    times = 20 if quick else 200
    return (
        *(_bulk(name, word, total) for name, word in (("upload", "up"), ("download", "down"))),
        *(_many(name, word, total) for name, word in (("upload", "up"), ("download", "down"))),
        _delay("open to first byte", "open", times, quic=8, tcp=2.5),
        _delay("ping-pong 64 B", "echo", 2 * times, quic=3, tcp=0.9),
        _delay("ping-pong beside upload", "beside", 2 * times, tcp=5),
    )


def _bulk(name: str, operation: str, total: int) -> Scenario:
    return Scenario(
        name=name,
        operation=operation,
        unit=Unit.RATE,
        amount=total,
        goals={QUIC: Goal(value=12), TCP: Goal(value=0.9, of_route=CHAIN, cpu=_CPU)},
    )


def _many(name: str, operation: str, total: int) -> Scenario:
    return Scenario(
        name=f"{name}, 16 streams",
        operation=operation,
        unit=Unit.RATE,
        streams=16,
        amount=total // 16,
        goals={
            QUIC: Goal(value=0.9, of_scenario=name),
            TCP: Goal(value=1.0, of_route=CHAIN, cpu=_CPU),
        },
    )


def _delay(name: str, operation: str, times: int, **goals: float) -> Scenario:
    return Scenario(
        name=name,
        operation=operation,
        unit=Unit.DELAY,
        amount=times,
        goals={route: Goal(value=value) for route, value in goals.items()},
    )

"""Which faults happen when: all of it told by a seed.

Words: a *fault* is one thing that goes wrong, at a *target*: a relay, or a path between an
agent and a relay. It waits ``after`` seconds, counted from the fault before it or, where it is
``settled``, from the moment every stream has moved again. So some faults meet streams that
flow, and some meet streams that are only just being resumed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What goes wrong."""

    KILL = "kill and restart"
    LOSE = "kill, one of two"
    FREEZE = "freeze"
    GONE = "all relays gone"
    SEVER = "sever"
    MUTE = "drop one side's packets"
    MOVE = "change the client's address"


LASTS = {
    Kind.KILL: (0.0, 1.0),
    Kind.LOSE: (4.0, 10.0),
    Kind.FREEZE: (1.0, 15.0),
    Kind.GONE: (20.0, 20.0),
    Kind.SEVER: (0.0, 0.0),
    Kind.MUTE: (10.0, 10.0),
    Kind.MOVE: (0.0, 0.0),
}
"""For how long, seconds: at least and at most."""

OFTEN = {
    Kind.KILL: 12,
    Kind.LOSE: 6,
    Kind.FREEZE: 6,
    Kind.GONE: 1,
    Kind.SEVER: 12,
    Kind.MUTE: 3,
    Kind.MOVE: 9,
}
"""How often each, beside the others."""

AFTER = (0.05, 2.5)
"""Seconds between two faults, or before the first that meets settled streams."""

SETTLED = 0.5
"""Share of the faults that wait for the streams."""

_PATHS = frozenset({Kind.SEVER, Kind.MUTE, Kind.MOVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Args:
        kind: What.
        target: Where; with ``GONE`` it is every relay.
        after: Seconds to wait first.
        settled: Whether every stream must have moved before that.
        lasts: Seconds until it is repaired.
        detail: Which direction is ``MUTE``: ``up`` (the agent's packets), ``down``, or both.
    """

    kind: Kind
    target: str
    after: float
    settled: bool
    lasts: float
    detail: str = ""

    def __str__(self) -> str:
        when = f"{'moved' if self.settled else '     '} +{self.after:4.2f} s"
        lasts = f" for {self.lasts:.1f} s" if self.lasts else ""
        return " ".join(filter(None, (when, self.kind.value, self.detail, self.target))) + lasts


def schedule(seed: str, count: int, relays: Sequence[str], paths: Sequence[str]) -> list[Fault]:
    """The faults of one world.

    Args:
        seed: Makes it another schedule.
        count: How many.
        relays: Their names.
        paths: Those of the paths that can fail; there may be none.
    """
    chance = random.Random(seed)
    kinds = [kind for kind in Kind if paths or kind not in _PATHS]
    if len(relays) == 1:
        kinds.remove(Kind.LOSE)
    often = [OFTEN[kind] for kind in kinds]
    return [_fault(chance, chance.choices(kinds, often)[0], relays, paths) for _ in range(count)]


def _fault(chance: random.Random, kind: Kind, relays: Sequence[str], paths: Sequence[str]) -> Fault:
    ways = ("up", "down", "up down")
    return Fault(
        kind=kind,
        target="" if kind is Kind.GONE else chance.choice(paths if kind in _PATHS else relays),
        after=chance.uniform(*AFTER),
        settled=chance.random() < SETTLED,
        lasts=chance.uniform(*LASTS[kind]),
        detail=chance.choice(ways) if kind is Kind.MUTE else "",
    )

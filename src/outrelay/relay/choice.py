"""In which order the providers of a service are asked, and who is spared for a while.

Words: a provider's *standing* at a service is what became of asking it. A provider that did
not serve a call it should have served *rests*: others are asked before it. Its *load* is the
number of streams it carries for each unit of its weight.

- Who rests comes after everybody who does not.
- Then processes that share an agent's identity with a newer one stand back: they are asked
  when no other provider is left.
- Then the lower priority number comes first, then the lower load, then whose turn was longest
  ago; of those that were never asked, the one listed first.
- The first rest lasts ``FIRST_REST``, each one after another failure twice as long as the one
  before, ``LONGEST_REST`` at most. A success ends that.
- Calls that were under way together fail together: only a call that began after the last
  failure was noted makes a rest longer.

Source: docs/decisions/0008-choice-of-providers.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

ProviderT = TypeVar("ProviderT")

FIRST_REST = 5.0
LONGEST_REST = 60.0
"""Seconds."""


@dataclass(slots=True)
class Standing:
    """What became of asking a provider; times are monotonic seconds.

    Args:
        turn: The number of the last call it was asked to serve; 0: of none.
        rest: How long its last rest was, seconds; 0: it has served a call since.
        failed_at: When that began.
    """

    turn: int = 0
    rest: float = 0.0
    failed_at: float = -inf

    def rests(self, now: float) -> bool:
        """Whether others are to be asked before it."""
        return now < self.failed_at + self.rest

    def served(self) -> None:
        """It has accepted a call."""
        self.rest = 0.0

    def failed(self, asked_at: float, now: float) -> bool:
        """It did not accept a call of ``asked_at``; False when that is no news."""
        if asked_at <= self.failed_at:
            return False
        self.rest = min(self.rest * 2, LONGEST_REST) or FIRST_REST
        self.failed_at = now
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate(Generic[ProviderT]):
    """A provider that may be asked.

    Args:
        provider: Whatever stands for it.
        age: How many newer processes of the same agent there are.
        priority: Lower comes first.
        weight: Its share among equals; 0 counts as 1.
        streams: How many it carries.
        standing: At the service.
    """

    provider: ProviderT
    age: int
    priority: int
    weight: int
    streams: int
    standing: Standing


def in_order(candidates: Iterable[Candidate[ProviderT]], now: float) -> list[Candidate[ProviderT]]:
    """The candidates as they are to be asked; ``now`` is monotonic seconds."""
    return sorted(
        candidates,
        key=lambda each: (
            each.standing.rests(now),
            each.age,
            each.priority,
            each.streams / (each.weight or 1),
            each.standing.turn,
        ),
    )

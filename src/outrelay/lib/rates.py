"""Token buckets, one for each key: how often something may happen for somebody.

Each key may do ``burst`` things at once and ``per_second`` in the long run. What a key has
left is one number, the moment at which its bucket is full again; a bucket that is full is
forgotten, and of more than ``most`` the one that was not used for the longest time.

Source: ITU-T I.371, generic cell rate algorithm.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

ROUNDING = 0.001
"""Part of a thing that a bucket may lack: sums of times are not exact."""

MOST = 4096
"""Keys remembered."""


class Rates(Generic[Key]):
    """Buckets that fill again.

    Args:
        per_second: Things in the long run, above 0.
        burst: Things at once, at least 1.
        most: Keys remembered at a time.
    """

    def __init__(self, *, per_second: float, burst: int, most: int = MOST) -> None:
        assert per_second > 0
        assert burst >= 1
        self._cost = 1 / per_second
        self._deepest = (burst - 1 + ROUNDING) / per_second
        self._most = most
        self._full_at: dict[Key, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def allows(self, key: Key, now: float) -> bool:
        """Whether ``spend`` would take something; ``now`` is monotonic seconds."""
        return self._full_at.get(key, now) - now <= self._deepest

    def spend(self, key: Key, now: float) -> bool:
        """Take one thing out of the bucket of ``key``; False when there is none."""
        if not self.allows(key, now):
            return False
        full_at = max(self._full_at.pop(key, now), now) + self._cost
        self._forget(now)
        self._full_at[key] = full_at  # the last in use comes last
        return True

    def _forget(self, now: float) -> None:
        while self._full_at:
            key = next(iter(self._full_at))
            if self._full_at[key] > now and len(self._full_at) < self._most:
                break
            del self._full_at[key]

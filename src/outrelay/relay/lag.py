"""For how long the relay has not been told what changes at its controller.

Words: a *kind* of watch is policy, directory or fleet; with a plain controller there is a
watch of policy for each tenant. A watch is *behind* from the moment it is wanted, or was
lost, until the controller has let it in.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

POLICY, DIRECTORY, FLEET = KINDS = ("policy", "directory", "fleet")


class Lag:
    """What is behind, and since when.

    Args:
        now: Seconds from anywhere.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._behind: defaultdict[str, dict[object, float]] = defaultdict(dict)

    def behind(self, kind: str, watch: object) -> None:
        """A watch is behind from now on, unless it has been already."""
        self._behind[kind].setdefault(watch, self._now())

    def caught_up(self, kind: str, watch: object) -> None:
        """A watch is told of changes, or is wanted no longer."""
        self._behind[kind].pop(watch, None)

    def seconds(self, kind: str) -> float:
        """How long the watch of a kind has been behind that has been it the longest."""
        since = self._behind[kind].values()
        return self._now() - min(since) if since else 0.0

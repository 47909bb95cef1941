"""An event loop on which time passes only while everybody waits, and then at once.

    @pytest.mark.virtual_time
    async def test_nobody_waits_longer_than_told() -> None:
        ...
        assert elapsed() == 10.0

For code that waits by ``asyncio``'s clock and talks to nobody outside the process: timers fire
in their order at exactly their time, hours pass in an instant, and a test that waits for what
never comes fails at once.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

START = 1000.0
"""What the clock shows first, seconds: monotonic clocks do not begin at zero either."""


END = START + 100_000.0
"""What it shows when a test has waited long enough."""


class _Selector(selectors.BaseSelector):
    """Takes what is ready; instead of waiting it has the time pass."""

    def __init__(self) -> None:
        self.now = START
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        assert timeout is not None, "everybody waits, and nothing will ever happen"
        assert self.now < END, "timers fire and fire, and nothing else happens"
        self.now += timeout
        return []

    def register(
        self, fileobj: FileDescriptorLike, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Seconds of virtual time."""
        return self._virtual.now


def elapsed() -> float:
    """Seconds of virtual time since the loop began, to the millisecond."""
    return round(asyncio.get_running_loop().time() - START, 3)

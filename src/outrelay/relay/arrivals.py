"""Services whose providers are on their way: who asks for one of them waits rather than fails.

Words: a service is *expected* for a while after its last provider here was lost: agents come
back at once after a cut, or when the relay itself was restarted. One that was withdrawn is
not.

Invariant: what is remembered is bounded, and only for a while.

Source: protocol.md section 4, 2 (services of a connection that ended) and section 6.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable

REMEMBERED = 100_000
"""Services that may be expected."""


class Arrivals:
    """Remembers whom to expect, and tells who waits that somebody has come.

    Args:
        window: Seconds a service is expected.
        now: Seconds from anywhere.
    """

    def __init__(self, window: float, now: Callable[[], float]) -> None:
        self._window = window
        self._now = now
        self._lost: dict[str, float] = {}
        self._waiting: dict[str, dict[Future[None], None]] = {}

    def __len__(self) -> int:
        return len(self._lost)

    def expect(self, service: str) -> None:
        """Nobody offers the service here any more, and somebody may again soon."""
        self._lost.pop(service, None)  # the oldest come first
        self._lost[service] = self._now()
        while len(self._lost) > REMEMBERED or not self.expects(next(iter(self._lost))):
            del self._lost[next(iter(self._lost))]

    def expects(self, service: str) -> bool:
        """Whether somebody may offer the service soon."""
        lost = self._lost.get(service)
        return lost is not None and self._now() - lost <= self._window

    def come(self, service: str) -> None:
        """Somebody offers the service."""
        self._lost.pop(service, None)
        for waiting in self._waiting.pop(service, ()):
            if not waiting.done():
                waiting.set_result(None)

    async def wait(self, service: str) -> None:
        """Return when somebody next begins to offer the service here."""
        waiting = asyncio.get_running_loop().create_future()
        everybody = self._waiting.setdefault(service, {})
        everybody[waiting] = None
        try:
            await waiting
        finally:
            everybody.pop(waiting)
            if not everybody and self._waiting.get(service) is everybody:
                del self._waiting[service]

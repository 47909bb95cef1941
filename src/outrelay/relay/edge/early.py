"""What agents say on a half before the other half has come.

An agent of ours says nothing until it knows where the other one is. What others say is kept
for the other half: not reading it would cost a stream's window each, a hundred times as much.

Invariants: what is kept is bounded, of each half and of all together; who goes beyond is
dropped. A half that its agent gives up, or whose connection goes, waits no longer.

Source: protocol.md section 6; docs/decisions/0011-halves-at-the-relay.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from outrelay.lib.errors import RemoteProtocolError
from outrelay.lib.tasks import beside
from outrelay.relay.splice import Leg


class Early:
    """Keeps what comes early.

    Args:
        each: Bytes of one half.
        together: Bytes of all.
    """

    def __init__(self, each: int, together: int) -> None:
        self._each = each
        self._together = together
        self._kept = 0

    @asynccontextmanager
    async def heard(self, leg: Leg) -> AsyncIterator[None]:
        """Keep what comes on ``leg`` during the body, and end that when its agent gives up.

        Raises:
            Reset: It does.
            RemoteProtocolError: It does not wait.
            Closed: Its connection is gone.
        """
        self._kept += len(leg.early)
        try:
            async with beside(self._keep(leg), name="relay: half"):
                yield
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self._kept -= len(leg.early)  # the splice passes it on

    async def _keep(self, leg: Leg) -> None:
        while len(leg.early) <= self._each and self._kept <= self._together:
            if not (data := await leg.stream.read()):
                return  # its end is passed on later
            leg.early += data
            self._kept += len(data)
        raise RemoteProtocolError("sends before the other half has come")

"""Brings the trail to the controller, in batches, until each event is stored.

A batch whose answer was lost is sent again: the controller stores each event id once.
One that the controller refuses for what is in it is halved, so that one bad event does
not hold up the rest.

Source: control-plane.md, Audit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from outrelay.lib.control.v1 import audit_pb2 as audit
from outrelay.lib.errors import ControlError
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.transport.dial import Backoff
from outrelay.relay.audit.trail import Trail
from outrelay.relay.controller import AWAY, LONGEST_BACKOFF, Controller

log = get_logger(__name__)

BATCH = 500
"""Events of one call."""

GATHER = 0.1
"""Seconds in which events gather before they are sent."""

HURRIED = 0.1
"""Most seconds between tries when the relay is about to stop."""

Events = Sequence[audit.AuditEvent]


class Sender:
    """Sends what the trail has.

    Args:
        trail: Where the events are.
        controller: Where they go.
    """

    def __init__(self, trail: Trail, controller: Controller) -> None:
        self._trail = trail
        self._controller = controller
        self._plain = False

    async def run(self) -> None:
        """Send for ever."""
        while True:
            await self._trail.wait()
            await self._gather()
            batch = self._trail.batch(BATCH)
            await self._store(batch)
            self._trail.stored(len(batch))

    async def _gather(self) -> None:
        """Let a batch fill: a call for each event would cost more than the streams do."""
        if self._trail.waiting < BATCH:
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER):
                    await self._trail.settling.wait()

    async def _store(self, events: Events) -> None:
        """Send until the controller has all of ``events``, or refuses them for good."""
        backoff = Backoff()
        fault = ""
        while True:
            try:
                return await self._send(events)
            except ControlError as error:
                if error.status == "INVALID_ARGUMENT":
                    return await self._store_halves(events, error)
                if error.status not in AWAY and str(error) != fault:
                    fault = str(error)
                    log.warning("the controller does not take audit events", reason=fault)
            await self._pause(backoff.delay(LONGEST_BACKOFF))

    async def _store_halves(self, events: Events, error: ControlError) -> None:
        if len(events) == 1:
            log.error("an audit event is refused for good", reason=str(error), lost=events[0])
            return
        middle = len(events) // 2
        await self._store(events[:middle])
        await self._store(events[middle:])

    async def _send(self, events: Events) -> None:
        if not self._plain:
            try:
                await self._send_batch(events)
            except ControlError as error:
                if error.status != "UNIMPLEMENTED":
                    raise
                self._plain = True
            else:
                return
        for event in events:
            await self._send_one(event)

    async def _send_batch(self, events: Events) -> None:
        async def requests() -> AsyncIterator[audit.RecordBatchRequest]:
            yield audit.RecordBatchRequest(events=events)

        await self._controller.call(
            lambda services, timeout: services.audit.RecordBatch(requests(), timeout=timeout)
        )

    async def _send_one(self, event: audit.AuditEvent) -> None:
        request = audit.RecordAuditRequest(event=event)
        await self._controller.call(
            lambda services, timeout: services.audit.Record(request, timeout=timeout)
        )

    async def _pause(self, seconds: float) -> None:
        """Wait before another try; not at all when the relay is about to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._trail.settling.wait()
        except TimeoutError:
            return
        await asyncio.sleep(min(seconds, HURRIED))

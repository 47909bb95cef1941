"""Brings audit events to the controller, in batches, until each is stored.

A batch whose answer was lost is sent again: the controller stores each event id once.
One that the controller refuses for what is in it is halved, so that one bad event does
not hold up the rest.

Source: control-plane.md, Audit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from outrelay.lib.control.v1 import audit_pb2 as audit
from outrelay.lib.errors import ControlError
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.tasks import until
from outrelay.lib.transport.dial import Backoff
from outrelay.relay.audit.record import Record
from outrelay.relay.controller import AWAY, LONGEST_BACKOFF, Controller

log = get_logger(__name__)

HURRIED = 0.1
"""Most seconds between tries when the relay is about to stop."""

Records = Sequence[Record]


class Source(Protocol):
    """Where events wait: the trail, or the spool."""

    async def next(self) -> Records:
        """The oldest events, when there are some; the same until they are ``stored``."""

    async def stored(self, records: Records) -> None:
        """The controller has these, the first of what ``next`` returned."""

    async def settle(self) -> None:
        """Return when no event is lost any more if this process ends; hold none back."""

    async def wait_empty(self) -> None:
        """Return when every event is stored."""

    @property
    def waiting(self) -> int:
        """Events that are not stored."""


class Sender:
    """Sends what its source has.

    Args:
        source: Where the events are.
        controller: Where they go.
    """

    def __init__(self, source: Source, controller: Controller) -> None:
        self._source = source
        self._controller = controller
        self._fault = ""
        self._away = asyncio.Event()
        self._hurried = asyncio.Event()

    async def run(self) -> None:
        """Send for ever."""
        backoff = Backoff()
        while True:
            records = await self._source.next()
            try:
                await self._store(records)
            except ControlError as error:
                self._note(error)
                await self._pause(backoff.delay(LONGEST_BACKOFF))
            else:
                self._fault = ""
                self._away.clear()
                backoff.reset()

    async def settle(self) -> bool:
        """Send the rest without delay, now that there will be nothing more.

        Returns:
            When every event is stored: True. When the controller cannot be reached and the
            rest is in the spool, from where it is sent one day: False.
        """
        self._hurried.set()
        self._away.clear()  # that was before
        await self._source.settle()
        await until(self._away, self._source.wait_empty(), name="relay: last audit events")
        return not self._source.waiting

    @property
    def waiting(self) -> int:
        """Events that are not stored."""
        return self._source.waiting

    def _note(self, error: ControlError) -> None:
        self._away.set()
        if error.status not in AWAY and str(error) != self._fault:
            self._fault = str(error)
            log.warning("the controller does not take audit events", reason=self._fault)

    async def _store(self, records: Records) -> None:
        """Send until all of ``records`` are stored, or refused for good."""
        try:
            await self._send_batch(records)
        except ControlError as error:
            if error.status == "UNIMPLEMENTED":  # with the next batch another kind may be there
                await self._store_singly(records)
            elif error.status == "INVALID_ARGUMENT":
                await self._store_parts(records, error)
            else:
                raise
        else:
            await self._source.stored(records)

    async def _store_parts(self, records: Records, error: ControlError) -> None:
        """The controller refuses one of ``records``, or more."""
        if len(records) == 1:
            _give_up(records[0], error)
            await self._source.stored(records)
            return
        middle = len(records) // 2
        await self._store(records[:middle])
        await self._store(records[middle:])

    async def _store_singly(self, records: Records) -> None:
        """Send each event by itself: plain controllers know no batches.

        Nor do they know event ids: what is stored is not sent again.
        """
        for record in records:
            try:
                await self._send_one(record)
            except ControlError as error:
                if error.status != "INVALID_ARGUMENT":
                    raise
                _give_up(record, error)
            await self._source.stored([record])

    async def _send_batch(self, records: Records) -> None:
        async def requests() -> AsyncIterator[audit.RecordBatchRequest]:
            yield audit.RecordBatchRequest(events=[record.decoded() for record in records])

        await self._controller.call(
            lambda services, timeout: services.audit.RecordBatch(requests(), timeout=timeout)
        )

    async def _send_one(self, record: Record) -> None:
        request = audit.RecordAuditRequest(event=record.decoded())
        await self._controller.call(
            lambda services, timeout: services.audit.Record(request, timeout=timeout)
        )

    async def _pause(self, seconds: float) -> None:
        """Wait before another try; not long when the relay is about to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._hurried.wait()
        except TimeoutError:
            return
        await asyncio.sleep(min(seconds, HURRIED))


def _give_up(record: Record, error: ControlError) -> None:
    log.error("an audit event is refused for good", reason=str(error), lost=record.decoded())

"""The trail: what happened, as events in memory until they are somewhere safe.

Words: an event is *held* while equal ones are counted into it (folding), then *queued*.
It leaves the queue once the controller has stored it, or once it is in the spool.

Invariants:

- Recording never waits. Each tenant has its shares, of memory and of the spool. One whose
  share is full opens no stream (``deny``: nothing happens unrecorded), and what its running
  streams still have to say always fits; or its events are counted and dropped (``drop``).
- Refusals and registrations leave a part of each share to streams: a flood of them denies
  nobody anything.
- Each event has an id of its own, by which no tenant can count those of others; sending it
  twice stores it once.

Source: control-plane.md, Audit.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice

from outrelay.lib.control.v1 import audit_pb2 as audit
from outrelay.lib.control.v1 import policy_pb2 as policy
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.metrics import AuditMetrics
from outrelay.lib.observe.throttle import Throttle
from outrelay.relay.audit.folding import REJECT, Folding
from outrelay.relay.audit.record import Record
from outrelay.relay.audit.shares import Shares
from outrelay.relay.call import Call
from outrelay.relay.clock import unix_ms
from outrelay.relay.options import Overflow

log = get_logger(__name__)

MEMORY = 64 * 2**20
"""Bytes of memory for events that wait, of all tenants."""

BATCH = 500
"""Events that leave at a time."""

GATHER = 0.1
"""Seconds in which a batch fills: to move each event by itself costs more than streams do."""

FOLDED_PART = 0.5
"""Of a tenant's share, what refusals and registrations may fill."""


class Trail:
    """Takes what happens, and hands it out in batches.

    Args:
        metrics: Told how many events wait, were stored, and were dropped.
        relay_id: Who records.
        overflow: What happens where a tenant has no room.
        memory: Bytes for events that wait in memory.
        spool: The shares of the spool, where there is one.
        now_ms: The time of events, milliseconds since the epoch.
        monotonic: The clock by which events are held, seconds.
    """

    def __init__(
        self,
        metrics: AuditMetrics,
        *,
        relay_id: str,
        overflow: Overflow = Overflow.DENY,
        memory: int = MEMORY,
        spool: Shares | None = None,
        now_ms: Callable[[], int] = unix_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._relay_id = relay_id
        self._overflow = overflow
        self._memory = Shares(memory)
        self._rooms = (self._memory,) if spool is None else (self._memory, spool)
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._queue: deque[Record] = deque()
        self._folding = Folding(lambda tenant: self._fits(tenant, FOLDED_PART))
        self._throttle = Throttle()
        self._changed = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._settling = asyncio.Event()

    # ---- what happens --------------------------------------------------------------------

    def has_room(self, tenant: str) -> bool:
        """Whether a tenant may open a stream: what happens to it can be recorded, or need not."""
        if self._fits(tenant) or self._overflow is Overflow.DROP:
            return True
        self._throttle.write(
            log.error,
            "no room for audit events: streams are refused",
            cause=tenant,
            tenant=tenant,
            hint="until the controller takes events; see --audit-overflow",
        )
        return False

    def opened(self, call: Call, provider: str, reason: str) -> None:
        """A stream is spliced; ``reason`` is why it was allowed."""
        self._put(self._event(call, policy.DECISION_ALLOW, reason, event="open", provider=provider))

    def resumed(self, call: Call, provider: str, reason: str) -> None:
        """A stream that had lost a connection goes on; ``reason`` is why it may."""
        self._put(
            self._event(call, policy.DECISION_ALLOW, reason, event="resume", provider=provider)
        )

    def closed(
        self, call: Call, provider: str, reason: str, *, up: int, down: int, seconds: float
    ) -> None:
        """A spliced stream has ended; ``reason`` is how."""
        event = self._event(call, policy.DECISION_ALLOW, reason, event="close", provider=provider)
        event.bytes_up = up
        event.bytes_down = down
        event.duration_ms = round(seconds * 1000)
        self._put(event)

    def revoked(self, call: Call, provider: str, reason: str) -> None:
        """A stream is ended although neither side wants its end; ``reason`` is why."""
        self._put(
            self._event(call, policy.DECISION_DENY, reason, event="revoke", provider=provider)
        )

    def registered(self, call: Call, reason: str) -> None:
        """A registration was allowed: a decision without a stream."""
        self._fold(self._event(call, policy.DECISION_ALLOW, reason))

    def rejected(self, call: Call, reason: str) -> None:
        """A stream or a registration was refused."""
        self._fold(self._event(call, policy.DECISION_DENY, reason, event=REJECT))

    # ---- on their way --------------------------------------------------------------------

    async def next(self) -> Sequence[Record]:
        """The oldest events, when there are some; they stay until they are ``stored``."""
        await self._wait()
        if len(self._queue) < BATCH:
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER):
                    await self._settling.wait()
        return self.batch(BATCH)

    def batch(self, most: int = BATCH) -> Sequence[Record]:
        """The oldest events, as many as there are now."""
        self._release()
        return list(islice(self._queue, most))

    async def stored(self, records: Sequence[Record]) -> None:
        """The controller has the first of the oldest events."""
        self._metrics.sent.inc(len(records))
        self.remove(records)

    def remove(self, records: Sequence[Record]) -> None:
        """Forget the oldest events, those of ``records`` that are still here."""
        for record in records:
            if self._queue and self._queue[0] is record:
                self._queue.popleft()
                self._memory.give_back(record.tenant, record.cost)
        self._count()

    async def settle(self) -> None:
        """Hold nothing back any more; return when everything has left."""
        self.hold_nothing_back()
        await self._empty.wait()

    async def wait_empty(self) -> None:
        """Return when everything has left."""
        await self._empty.wait()

    def hold_nothing_back(self) -> None:
        """Queue what is held, and from now on everything at once."""
        self._settling.set()
        self._changed.set()
        self._release()

    @property
    def waiting(self) -> int:
        """Events here."""
        return len(self._queue) + len(self._folding)

    # ---- inside --------------------------------------------------------------------------

    def _fits(self, tenant: str, part: float = 1.0) -> bool:
        return all(room.has_room(tenant, part=part) for room in self._rooms)

    def _event(
        self,
        call: Call,
        decision: policy.Decision.ValueType,
        reason: str,
        *,
        event: str = "",
        provider: str = "",
    ) -> audit.AuditEvent:
        return audit.AuditEvent(
            ts_unix_ms=self._now_ms(),
            tenant=call.tenant,
            caller=call.caller,
            target=call.service,
            method=call.method,
            decision=decision,
            reason=reason,
            stream_id=call.stream_name,
            event=event,
            relay_id=self._relay_id,
            provider=provider,
            event_id=secrets.token_hex(16),
        )

    def _fold(self, event: audit.AuditEvent) -> None:
        if self._settling.is_set():
            self._queue_up(event)
            return
        self._folding.add(event, self._monotonic())
        self._count()
        self._changed.set()

    def _put(self, event: audit.AuditEvent) -> None:
        if self._overflow is Overflow.DROP and not self._fits(event.tenant):
            self._metrics.dropped.inc()
            self._throttle.write(
                log.error, "audit events dropped", cause=event.tenant, tenant=event.tenant
            )
            return
        self._queue_up(event)

    def _queue_up(self, event: audit.AuditEvent) -> None:
        record = Record.of(event)
        self._memory.take(record.tenant, record.cost)
        self._queue.append(record)
        self._count()
        self._changed.set()

    def _release(self) -> None:
        """Queue what was held long enough."""
        settling = self._settling.is_set()
        for event in self._folding.all() if settling else self._folding.due(self._monotonic()):
            self._queue_up(event)

    async def _wait(self) -> None:
        """Return when something is queued."""
        while True:
            self._release()
            if self._queue:
                return
            self._changed.clear()
            due = self._folding.next_due()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else due - self._monotonic()):
                    await self._changed.wait()

    def _count(self) -> None:
        self._metrics.queued.set(len(self._queue))
        if self.waiting:
            self._empty.clear()
        else:
            self._empty.set()

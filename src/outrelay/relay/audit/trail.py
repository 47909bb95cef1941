"""The trail: audit events in memory, until the controller has stored them.

Words: an event is *held* while equal ones are counted into it, then *queued*, and
dropped once it is stored.

Invariants:

- Recording never waits. The queue is bounded: while it is ``full`` no stream is opened,
  so that nothing happens unrecorded; what running streams still have to say always fits.
- Rejects of one caller, target and reason within a second are one event with a count; so
  are registrations.
- Each event has an id of its own; sending it twice stores it once.

Source: control-plane.md, Audit.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from outrelay.lib.control.v1 import audit_pb2 as audit
from outrelay.lib.control.v1 import policy_pb2 as policy
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.metrics import AuditMetrics
from outrelay.relay.call import Call
from outrelay.relay.clock import unix_ms

log = get_logger(__name__)

CAPACITY = 100_000
"""Events that may wait for the controller."""

HOLD = 1.0
"""Seconds in which equal events are counted as one."""

MOST_HELD = 10_000
"""Different events held at a time; more are queued as they are."""

_Key = tuple[str, str, str]


@dataclass(slots=True)
class _Held:
    event: audit.AuditEvent
    count: int
    until: float


class Trail:
    """Takes what happens, and hands it out in batches.

    Args:
        metrics: Told how many events wait, and how many were stored.
        relay_id: Who records.
        capacity: Events that may be queued.
        now_ms: The time of events, milliseconds since the epoch.
        monotonic: The clock of ``HOLD``, seconds.
    """

    def __init__(
        self,
        metrics: AuditMetrics,
        *,
        relay_id: str,
        capacity: int = CAPACITY,
        now_ms: Callable[[], int] = unix_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._relay_id = relay_id
        self._capacity = capacity
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._queue: deque[audit.AuditEvent] = deque()
        self._held: dict[_Key, _Held] = {}
        self._dropped = 0
        self._changed = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.settling = asyncio.Event()

    # ---- what happens --------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether no stream may be opened, because it could not be recorded."""
        return len(self._queue) >= self._capacity

    def opened(self, call: Call, provider: str, reason: str) -> None:
        """A stream is spliced; ``reason`` is why it was allowed."""
        self._put(self._event(call, policy.DECISION_ALLOW, reason, event="open", provider=provider))

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
        self._hold(self._event(call, policy.DECISION_ALLOW, reason))

    def rejected(self, call: Call, reason: str) -> None:
        """A stream or a registration was refused."""
        self._hold(self._event(call, policy.DECISION_DENY, reason, event="reject"))

    # ---- towards the controller ----------------------------------------------------------

    async def wait(self) -> None:
        """Return when there is an event to send."""
        while True:
            delay = self._release()
            if self._queue:
                return
            try:
                async with asyncio.timeout(delay):
                    await self._changed.wait()
            except TimeoutError:
                continue
            self._changed.clear()

    def batch(self, limit: int) -> list[audit.AuditEvent]:
        """The oldest events, at most ``limit``; they stay until ``stored``."""
        self._release()
        return list(islice(self._queue, limit))

    def stored(self, count: int) -> None:
        """The controller has the ``count`` oldest events."""
        was_full = self.full
        for _ in range(count):
            self._queue.popleft()
        self._metrics.sent.inc(count)
        self._count_waiting()
        if was_full and not self.full:
            log.warning("audit queue has room again", rejects_not_recorded=self._dropped)
            self._dropped = 0

    async def settle(self) -> None:
        """Hold nothing back any more and wait until everything is stored."""
        self.settling.set()
        self._changed.set()
        self._release()
        await self._empty.wait()

    @property
    def waiting(self) -> int:
        """Events not yet stored."""
        return len(self._queue) + len(self._held)

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
            event_id=str(uuid.uuid4()),
        )

    def _hold(self, event: audit.AuditEvent) -> None:
        key = (event.caller, event.target, event.reason)
        if held := self._held.get(key):
            held.count += 1
        elif self.settling.is_set() or len(self._held) >= MOST_HELD:
            self._put_if_room(event)
        else:
            self._held[key] = _Held(event, 1, self._monotonic() + HOLD)
            self._changed.set()

    def _put_if_room(self, event: audit.AuditEvent) -> None:
        if self.full:
            self._dropped += 1
        else:
            self._put(event)

    def _put(self, event: audit.AuditEvent) -> None:
        self._queue.append(event)
        self._count_waiting()
        self._changed.set()
        if len(self._queue) == self._capacity:
            log.error(
                "audit queue is full: new streams are refused until the controller takes events",
                events=self._capacity,
            )

    def _release(self) -> float | None:
        """Queue what was held long enough; seconds until the next is, None without one."""
        now = self._monotonic()
        while self._held:
            key, held = next(iter(self._held.items()))  # the oldest
            if held.until > now and not self.settling.is_set():
                return held.until - now
            del self._held[key]
            if held.count > 1:
                held.event.reason += f" ({held.count} times)"
            self._put_if_room(held.event)
        return None

    def _count_waiting(self) -> None:
        self._metrics.queued.set(len(self._queue))
        if self._queue:
            self._empty.clear()
        else:
            self._empty.set()

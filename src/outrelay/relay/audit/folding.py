"""Folding: equal decisions of a second are one event with a count.

Words: events are *equal* when caller, target, reason and kind are. An event is *held* while
equal ones are counted into it. What is too much to be told apart is *lumped*: counted into
one event of its caller that names no target.

Invariants:

- Every decision is in some event's count. A flood costs its caller's tenant, nobody else:
  a caller has few different refusals held, a tenant as many as are still free.
- What the tenant has no room for is lumped and stays, until there is room.

Source: control-plane.md, Audit (repeated rejects).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from outrelay.lib.control.v1 import audit_pb2 as audit
from outrelay.relay.audit.shares import Shares

HOLD = 1.0
"""Seconds for which an event is held."""

MOST_HELD = 10_000
"""Different events held at a time, lumps not counted."""

MOST_OF_CALLER = 100
"""Different refusals of one caller held at a time."""

MOST_LUMPS = 10_000
"""Callers whose lumps are told apart."""

REJECT = "reject"
LUMPED = "too many to tell apart"

_Key = tuple[str, ...]


@dataclass(slots=True)
class _Held:
    event: audit.AuditEvent
    count: int
    until: float


class Folding:
    """Holds events back for a while.

    Args:
        has_room: Whether an event of a tenant can be recorded now.
    """

    def __init__(self, has_room: Callable[[str], bool]) -> None:
        self._has_room = has_room
        self._held: dict[_Key, _Held] = {}  # the oldest first
        self._lumps: dict[_Key, _Held] = {}  # likewise
        self._shares = Shares(MOST_HELD)
        self._refusals = Counter[str]()

    def __len__(self) -> int:
        return len(self._held) + len(self._lumps)

    def add(self, event: audit.AuditEvent, now: float) -> None:
        """Hold an event, or count it into an equal one."""
        key = (event.caller, event.target, event.reason, event.event)
        if held := self._held.get(key):
            held.count += 1
        elif self._may_hold(event):
            self._held[key] = _Held(event, 1, now + HOLD)
            self._shares.take(event.tenant, 1)
            if event.event == REJECT:
                self._refusals[event.caller] += 1
        else:
            self._lump(event, 1, now)

    def due(self, now: float) -> Iterator[audit.AuditEvent]:
        """The events that were held long enough; whoever takes one records it at once."""
        for key, held in _older(self._held, now):
            self._forget(key, held.event)
            if self._has_room(held.event.tenant):
                yield _counted(held)
            else:
                self._lump(held.event, held.count, now)
        for key, lump in _older(self._lumps, now):
            del self._lumps[key]
            if self._has_room(lump.event.tenant):
                yield _counted(lump)
            else:
                self._lumps[key] = _Held(lump.event, lump.count, now + HOLD)

    def all(self) -> Iterator[audit.AuditEvent]:
        """Everything that is held, also what there is no room for: nothing comes after it."""
        for key, held in list(self._held.items()):
            self._forget(key, held.event)
            yield _counted(held)
        while self._lumps:
            yield _counted(self._lumps.popitem()[1])

    def next_due(self) -> float | None:
        """When something is due next; None: nothing is held."""
        return min(
            (next(iter(each.values())).until for each in (self._held, self._lumps) if each),
            default=None,
        )

    def _may_hold(self, event: audit.AuditEvent) -> bool:
        return (
            (event.event != REJECT or self._refusals[event.caller] < MOST_OF_CALLER)
            and self._shares.has_room(event.tenant)
            and self._has_room(event.tenant)
        )

    def _forget(self, key: _Key, event: audit.AuditEvent) -> None:
        del self._held[key]
        self._shares.give_back(event.tenant, 1)
        if event.event == REJECT:
            self._refusals[event.caller] -= 1
            if not self._refusals[event.caller]:
                del self._refusals[event.caller]

    def _lump(self, event: audit.AuditEvent, count: int, now: float) -> None:
        key = (event.tenant, event.event, event.caller)
        if key not in self._lumps and len(self._lumps) >= MOST_LUMPS:
            key = (event.tenant, event.event, "")
        if lump := self._lumps.get(key):
            lump.count += count
            return
        event.caller = key[-1]
        event.target = event.method = event.stream_id = ""
        event.reason = LUMPED
        self._lumps[key] = _Held(event, count, now + HOLD)


def _older(held: dict[_Key, _Held], now: float) -> list[tuple[_Key, _Held]]:
    """Those that are due."""
    found = []
    for item in held.items():
        if item[1].until > now:
            break
        found.append(item)
    return found


def _counted(held: _Held) -> audit.AuditEvent:
    if held.count > 1:
        held.event.reason += f" ({held.count} times)"
    return held.event

"""The Audit rpcs.

Source: control-plane.md, Audit.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from uuid import uuid4

from outrelay.controller.authz import Context, current_caller
from outrelay.controller.clock import Clock
from outrelay.controller.fields import LONGEST_TEXT, check_tenant, invalid
from outrelay.controller.store import Audit, AuditQuery, StoredEvent
from outrelay.lib.control.v1 import audit_pb2 as pb
from outrelay.lib.control.v1 import policy_pb2
from outrelay.lib.control.v1.audit_pb2_grpc import AuditServicer
from outrelay.lib.errors import ControlError

FOLLOWED_PAST = 1000
"""Events from before that a follower gets at most: they are turned round in memory."""

FOLLOWED = (("outrelay-follow", "1"),)
"""What a follower hears at once: that it will be told of what comes."""

Events = AsyncGenerator[StoredEvent, None]

_TEXTS = (
    "caller",
    "target",
    "method",
    "reason",
    "stream_id",
    "event",
    "relay_id",
    "provider",
    "event_id",
)


class AuditService(AuditServicer):
    """Audit over the store.

    Args:
        audit: The store's part.
        clock: The time.
    """

    def __init__(self, audit: Audit, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock

    async def Record(
        self, request: pb.RecordAuditRequest, _context: Context
    ) -> pb.RecordAuditResponse:
        """Store one event."""
        await self._store([request.event])
        return pb.RecordAuditResponse()

    async def RecordBatch(
        self, requests: AsyncIterator[pb.RecordBatchRequest], _context: Context
    ) -> pb.RecordBatchResponse:
        """Store batches as they come; each event at most once, however often it comes."""
        stored = 0
        async for request in requests:
            stored += await self._store(request.events)
        return pb.RecordBatchResponse(stored=stored)

    async def Query(
        self, request: pb.QueryAuditRequest, context: Context
    ) -> AsyncGenerator[pb.AuditEvent, None]:
        """Stored events, newest first.

        A follower gets them oldest first, of many the newest, or all that were stored after
        an event it names; and then every event as it is stored. The initial metadata is sent
        when nothing that is stored from then on is missed.
        """
        query = _query(request)
        after = await self._after(request)
        seen = await self._audit.last_seq()
        said = FOLLOWED if request.follow else ()
        context.set_trailing_metadata(said)  # who is cut off at once may not see the initial one
        await context.send_initial_metadata(said)
        async with aclosing(self._past(query, request, after, seen)) as past:
            async for stored in past:
                yield stored.event
        while request.follow:
            last = await self._audit.mark.beyond(seen)
            async with aclosing(self._audit.stored_between(query, after=seen, last=last)) as news:
                async for stored in news:
                    yield stored.event
            seen = last

    async def _after(self, request: pb.QueryAuditRequest) -> int | None:
        """Where a follower goes on; None: it begins."""
        if not request.after_event_id:
            return None
        if not request.follow:
            raise invalid("after_event_id", "is for those who follow")
        seq = await self._audit.seq_of(request.tenant, request.after_event_id)
        if seq is None:
            text = "the event to go on after is not in the trail any more"
            raise ControlError("NOT_FOUND", text)
        return seq

    def _past(
        self, query: AuditQuery, request: pb.QueryAuditRequest, after: int | None, last: int
    ) -> Events:
        """What was stored until now, as the caller wants it."""
        if not request.follow:
            return self._audit.query(query, limit=request.limit, last_seq=last)
        if after is None:
            return self._newest(query, min(request.limit or FOLLOWED_PAST, FOLLOWED_PAST), last)
        return self._audit.stored_between(query, after=after, last=last)

    async def _newest(self, query: AuditQuery, limit: int, last: int) -> Events:
        """The newest events, the oldest of them first."""
        found = self._audit.query(query, limit=limit, last_seq=last)
        for stored in reversed([stored async for stored in found]):
            yield stored

    async def _store(self, events: Sequence[pb.AuditEvent]) -> int:
        return await self._audit.record([self._checked(event) for event in events])

    def _checked(self, event: pb.AuditEvent) -> pb.AuditEvent:
        """The event to store: with a time and an id, its texts within bounds."""
        check_tenant(event.tenant, field="event.tenant")
        if event.decision not in policy_pb2.Decision.values():
            raise invalid("event.decision", f"{event.decision} is no decision")
        for name in _TEXTS:
            # SQLite would take a NUL for the end of the text.
            setattr(event, name, getattr(event, name)[:LONGEST_TEXT].replace("\0", "\ufffd"))
        event.event_id = event.event_id or str(uuid4())
        event.ts_unix_ms = event.ts_unix_ms or self._clock()
        return event


def _query(request: pb.QueryAuditRequest) -> AuditQuery:
    current_caller().require_tenant(request.tenant)
    if request.limit < 0:
        raise invalid("limit", "must not be negative; 0 means no limit")
    return AuditQuery(
        tenant=request.tenant,
        caller=request.caller,
        target=request.target,
        decision=request.decision,
        stream_id=request.stream_id,
        since_ms=request.since_unix_ms,
        until_ms=request.until_unix_ms,
    )

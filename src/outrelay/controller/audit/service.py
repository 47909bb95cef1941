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
from outrelay.controller.store import Audit, AuditQuery
from outrelay.lib.control.v1 import audit_pb2 as pb
from outrelay.lib.control.v1 import policy_pb2
from outrelay.lib.control.v1.audit_pb2_grpc import AuditServicer

FOLLOWED_PAST = 1000
"""Events from before that a follower gets at most: they are turned round in memory."""

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

        A follower gets them oldest first, of many the newest, and then every event as it is
        stored. The initial metadata is sent when nothing that is stored from then on is missed.
        """
        query = _query(request)
        with self._audit.feed.subscribe(lambda stored: query.wants(stored.event)) as news:
            await context.send_initial_metadata(())
            seen = await self._audit.last_seq()
            limit = request.limit
            if request.follow:
                limit = min(limit or FOLLOWED_PAST, FOLLOWED_PAST)
            found = self._audit.query(query, limit=limit, last_seq=seen)
            async with aclosing(found):
                if not request.follow:
                    async for stored in found:
                        yield stored.event
                    return
                past = [stored async for stored in found]
            for stored in reversed(past):
                yield stored.event
            async for stored in news:
                if stored.seq > seen:
                    yield stored.event

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

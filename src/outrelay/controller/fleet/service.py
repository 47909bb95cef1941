"""The Fleet rpcs.

An operator sees and ends the streams of its tenant only, whatever a relay answers.

Source: control-plane.md; commands.md, ``fleet streams`` and ``stream kill``.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable

from outrelay.controller.authz import Context, current_caller
from outrelay.controller.fields import check_tenant, check_text, invalid, limit_of
from outrelay.controller.fleet.attachments import Answer, Attachment, Attachments, silent
from outrelay.controller.registry.relays import Relays
from outrelay.lib.control.v1 import fleet_pb2 as pb
from outrelay.lib.control.v1.fleet_pb2_grpc import FleetServicer
from outrelay.lib.errors import ControlError
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.service import cause_of
from outrelay.lib.tasks import beside

log = get_logger(__name__)

_STREAM_ID = re.compile(r"[0-9a-f]{16}")


class FleetService(FleetServicer):
    """Fleet over the relays that are attached.

    Args:
        attachments: Who is on the line.
        relays: Whose ids the relays' are.
    """

    def __init__(self, attachments: Attachments, relays: Relays) -> None:
        self._attachments = attachments
        self._relays = relays

    async def Attach(  # type: ignore[override]  # it writes, the stub knows who yields
        self, requests: AsyncIterator[pb.RelayReport], context: Context
    ) -> None:
        """A relay is on the line; the initial metadata tells it so."""
        first = await anext(requests, pb.RelayReport())
        check_text("relay_id", first.relay_id)
        self._relays.claim(first.relay_id, current_caller().identity)
        with self._attachments.attached(first.relay_id) as attachment:
            await context.send_initial_metadata(())
            log.info("relay attached", relay=first.relay_id)
            try:
                async with beside(_read(requests, attachment), name="fleet: reports"):
                    async for command in attachment.commands():
                        await context.write(command)
            except ExceptionGroup as errors:
                raise cause_of(errors) from errors
            finally:
                log.info("relay detached", relay=first.relay_id)

    async def ListStreams(
        self, request: pb.ListStreamsRequest, _context: Context
    ) -> pb.ListStreamsResponse:
        """The streams of a tenant, or of all, the newest first."""
        if request.tenant:
            check_tenant(request.tenant)
        current_caller().require_scope(request.tenant)
        limit = limit_of(request.limit)
        asked = pb.ListStreamsRequest(tenant=request.tenant, limit=limit + 1)
        answers = await self._attachments.ask(pb.RelayCommand(list=asked), most=limit + 1)
        streams = sorted(_streams(answers, request.tenant), key=_newest_first)
        return pb.ListStreamsResponse(
            streams=streams[:limit],
            silent_relays=silent(answers),
            truncated=len(streams) > limit,
        )

    async def KillStream(
        self, request: pb.KillStreamRequest, _context: Context
    ) -> pb.KillStreamResponse:
        """End a stream of a tenant, wherever it is."""
        caller = current_caller()
        caller.require_tenant(request.tenant)
        check_tenant(request.tenant)
        check_text("reason", request.reason, optional=True)
        if not _STREAM_ID.fullmatch(request.stream_id):
            raise invalid("stream_id", "must be 16 hex digits")
        told = f": {request.reason}" if request.reason else ""
        kill = pb.KillStreamRequest(
            tenant=request.tenant,
            stream_id=request.stream_id,
            reason=f"killed by {caller.name}{told}",
        )
        answers = await self._attachments.ask(pb.RelayCommand(kill=kill))
        killed = sum(answer.killed for answer in answers)
        log.info(
            "stream killed" if killed else "stream to kill not found",
            stream_id=request.stream_id,
            tenant=request.tenant,
            by=caller.name,
        )
        return pb.KillStreamResponse(killed=killed, silent_relays=silent(answers))


async def _read(reports: AsyncIterator[pb.RelayReport], attachment: Attachment) -> None:
    async for report in reports:
        attachment.take(report)
    attachment.end(ControlError("CANCELLED", "the relay reports no longer"))


def _streams(answers: Iterable[Answer], tenant: str) -> Iterable[pb.StreamInfo]:
    for answer in answers:
        for stream in answer.streams:
            if tenant in ("", stream.tenant):
                stream.relay_id = answer.relay_id
                yield stream


def _newest_first(stream: pb.StreamInfo) -> tuple[int, str]:
    return -stream.opened_unix_ms, stream.stream_id

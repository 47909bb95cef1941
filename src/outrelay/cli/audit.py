"""``outrelay-cli audit``: what happened to the streams.

Source: commands.md, outrelay-cli.
"""

from __future__ import annotations

import time

import click

from outrelay.cli.flags import calls_controller, examples
from outrelay.cli.output import TABLE, Column, moment, print_record, print_table, record_of, word
from outrelay.cli.ruleset import DECISIONS
from outrelay.cli.session import STREAM_TIMEOUT, Session
from outrelay.lib.control.v1 import audit_pb2 as pb
from outrelay.lib.control.v1 import policy_pb2
from outrelay.lib.control.v1.audit_pb2_grpc import AuditStub
from outrelay.lib.identity.uri import SCHEME
from outrelay.lib.options import DURATION

Event = pb.AuditEvent


def _decision(event: Event) -> str:
    return word(policy_pb2.Decision.DESCRIPTOR, event.decision) if event.decision else ""


def _count(event: Event, count: int) -> str:
    return str(count) if count or event.duration_ms else ""


def _seconds(event: Event) -> str:
    return f"{event.duration_ms / 1000:.3f}" if event.duration_ms else ""


COLUMNS: tuple[Column[Event], ...] = (
    Column(title="TIME", text=lambda event: moment(event.ts_unix_ms), whole=True),
    Column(title="EVENT", text=lambda event: event.event, whole=True),
    Column(title="DECISION", text=_decision, whole=True),
    Column(title="CALLER", text=lambda event: event.caller.removeprefix(SCHEME)),
    Column(title="TARGET", text=lambda event: event.target),
    Column(title="METHOD", text=lambda event: event.method, extra=True),
    Column(title="PROVIDER", text=lambda event: event.provider.removeprefix(SCHEME), extra=True),
    Column(title="RELAY", text=lambda event: event.relay_id, extra=True),
    Column(title="STREAM", text=lambda event: event.stream_id, whole=True, extra=True),
    Column(title="UP", text=lambda event: _count(event, event.bytes_up), extra=True),
    Column(title="DOWN", text=lambda event: _count(event, event.bytes_down), extra=True),
    Column(title="SECONDS", text=_seconds, extra=True),
    Column(title="REASON", text=lambda event: event.reason),
)


@click.group()
def audit() -> None:
    """What happened to the streams."""


@audit.command(
    epilog=examples(
        """
        outrelay-cli audit query --since 1h
        outrelay-cli audit query --target db --decision deny --output json
        """
    )
)
@click.option("--caller", default="", show_default="any", help="URI of the agent that called.")
@click.option("--target", default="", show_default="any", help="Service that was called.")
@click.option(
    "--decision", type=click.Choice(list(DECISIONS)), show_default="any", help="What policy said."
)
@click.option("--stream-id", default="", show_default="any", help="One stream, 16 hex digits.")
@click.option("--since", type=DURATION, show_default="ever", help="How far back: 15m, 1h, 7d.")
@click.option(
    "--limit", type=click.IntRange(min=0), default=100, help="At most so many events; 0: all."
)
@calls_controller
async def query(
    session: Session,
    *,
    caller: str,
    target: str,
    decision: str | None,
    stream_id: str,
    since: float | None,
    limit: int,
) -> None:
    """Show audit events, newest first."""
    request = pb.QueryAuditRequest(
        tenant=session.required_tenant,
        caller=caller,
        target=target,
        decision=DECISIONS[decision] if decision else policy_pb2.DECISION_UNSPECIFIED,
        stream_id=stream_id,
        since_unix_ms=0 if since is None else int((time.time() - since) * 1000),
        limit=limit,
    )
    found = []
    async with session.channel() as channel:
        async for event in AuditStub(channel).Query(request, timeout=STREAM_TIMEOUT):
            if session.output == TABLE:
                found.append(event)
            else:
                print_record(session.output, record_of(event))
    if session.output == TABLE:
        print_table(COLUMNS, found)

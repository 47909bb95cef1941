"""``outrelay-cli audit``: what happened to the streams.

Source: commands.md, outrelay-cli.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import click

from outrelay.cli.flags import calls_controller, examples
from outrelay.cli.output import (
    TABLE,
    Column,
    Lines,
    moment,
    print_record,
    print_table,
    record_of,
    word,
)
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
    Column(title="TIME", text=lambda event: moment(event.ts_unix_ms), whole=True, width=19),
    Column(title="EVENT", text=lambda event: event.event, whole=True, width=7),
    Column(title="DECISION", text=_decision, whole=True, width=8),
    Column(title="CALLER", text=lambda event: event.caller.removeprefix(SCHEME), width=47),
    Column(title="TARGET", text=lambda event: event.target, width=16),
    Column(title="METHOD", text=lambda event: event.method, extra=True, width=8),
    Column(
        title="PROVIDER",
        text=lambda event: event.provider.removeprefix(SCHEME),
        extra=True,
        width=47,
    ),
    Column(title="RELAY", text=lambda event: event.relay_id, extra=True, width=8),
    Column(title="STREAM", text=lambda event: event.stream_id, whole=True, extra=True, width=16),
    Column(title="UP", text=lambda event: _count(event, event.bytes_up), extra=True, width=9),
    Column(title="DOWN", text=lambda event: _count(event, event.bytes_down), extra=True, width=9),
    Column(title="SECONDS", text=_seconds, extra=True, width=9),
    Column(title="REASON", text=lambda event: event.reason),
)


@click.group()
def audit() -> None:
    """What happened to the streams."""


Function = TypeVar("Function", bound=Callable[..., object])


def filters(function: Function) -> Function:
    """The flags that say which events are meant."""
    flags = (
        click.option("--caller", default="", show_default="any", help="URI of the calling agent."),
        click.option("--target", default="", show_default="any", help="Service that was called."),
        click.option(
            "--decision",
            type=click.Choice(list(DECISIONS)),
            show_default="any",
            help="What policy said.",
        ),
        click.option(
            "--stream-id", default="", show_default="any", help="One stream, 16 hex digits."
        ),
    )
    for flag in reversed(flags):
        function = flag(function)
    return function


def _request(
    session: Session, caller: str, target: str, decision: str | None, stream_id: str
) -> pb.QueryAuditRequest:
    return pb.QueryAuditRequest(
        tenant=session.required_tenant,
        caller=caller,
        target=target,
        decision=DECISIONS[decision] if decision else policy_pb2.DECISION_UNSPECIFIED,
        stream_id=stream_id.lower(),
    )


@audit.command(
    epilog=examples(
        """
        outrelay-cli audit query --since 1h
        outrelay-cli audit query --since 7d --until 1d --decision deny --output json
        """
    )
)
@filters
@click.option("--since", type=DURATION, show_default="ever", help="How far back: 15m, 1h, 7d.")
@click.option("--until", type=DURATION, show_default="now", help="Nothing younger: 15m, 1h, 7d.")
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
    until: float | None,
    limit: int,
) -> None:
    """Show audit events, newest first."""
    request = _request(session, caller, target, decision, stream_id)
    request.since_unix_ms = _before_now(since)
    request.until_unix_ms = _before_now(until)
    request.limit = limit
    found = []
    async with session.channel() as channel:
        async for event in AuditStub(channel).Query(request, timeout=STREAM_TIMEOUT):
            if session.output == TABLE:
                found.append(event)
            else:
                print_record(session.output, record_of(event))
    if session.output == TABLE:
        print_table(COLUMNS, found)


@audit.command(
    epilog=examples(
        """
        outrelay-cli audit tail
        outrelay-cli audit tail --decision deny --output json
        """
    )
)
@filters
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=10, help="So many of the past at first."
)
@calls_controller
async def tail(
    session: Session, *, caller: str, target: str, decision: str | None, stream_id: str, limit: int
) -> None:
    """Show the newest audit events, then every event as it is stored, until Ctrl-C."""
    request = _request(session, caller, target, decision, stream_id)
    request.limit = limit
    request.follow = True
    show = (
        Lines(COLUMNS).show
        if session.output == TABLE
        else lambda event: print_record(session.output, record_of(event))
    )
    async with session.channel() as channel:
        async for event in AuditStub(channel).Query(request):
            show(event)


def _before_now(seconds: float | None) -> int:
    """Milliseconds since the epoch; 0 for None."""
    return 0 if seconds is None else int((time.time() - seconds) * 1000)

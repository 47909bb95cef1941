"""``outrelay-cli audit``: what happened to the streams.

Tables are for people: they show the beginnings of agents' names and leave out what a
terminal has no room for. JSON and YAML have everything.

Source: commands.md, outrelay-cli.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

import click

from outrelay.cli.flags import calls_controller, examples
from outrelay.cli.output import (
    MEDIUM,
    TABLE,
    WIDE,
    Column,
    Lines,
    moment,
    print_record,
    print_table,
    record_of,
    short_name,
    size,
    word,
)
from outrelay.cli.ruleset import DECISIONS
from outrelay.cli.session import STREAM_TIMEOUT, Session, note
from outrelay.lib.control.v1 import audit_pb2 as pb
from outrelay.lib.control.v1 import policy_pb2
from outrelay.lib.control.v1.audit_pb2_grpc import AuditStub
from outrelay.lib.errors import ControlError, IdentityError
from outrelay.lib.identity.uri import Identity
from outrelay.lib.options import DURATION
from outrelay.lib.transport.dial import Backoff

Event = pb.AuditEvent

MOST_PAST = 1000
"""Events of the past that a controller gives to who follows."""

LONGEST_PAUSE = 3.0
"""Bound of the seconds between tries to reach a controller that was there."""


def _kind(event: Event) -> str:
    """What happened; an allowed registration has no word of its own in the trail."""
    return event.event or event.method.lower()


def _decision(event: Event) -> str:
    return word(policy_pb2.Decision.DESCRIPTOR, event.decision) if event.decision else ""


def _detail(event: Event) -> str:
    """Why, and of a stream that has ended what it was."""
    if event.event != "close":
        return event.reason
    moved = f"{size(event.bytes_up)} up, {size(event.bytes_down)} down"
    return f"{event.reason}; {moved}, {event.duration_ms / 1000:.1f} s"


COLUMNS: tuple[Column[Event], ...] = (
    Column(
        title="TIME", text=lambda event: moment(event.ts_unix_ms, year=False), whole=True, width=14
    ),
    Column(title="EVENT", text=_kind, whole=True, width=8),
    Column(title="DECISION", text=_decision, whole=True, least=WIDE, width=8),
    Column(title="CALLER", text=lambda event: short_name(event.caller), width=8),
    Column(title="TARGET", text=lambda event: event.target, width=16),
    Column(title="METHOD", text=lambda event: event.method, least=WIDE, width=8),
    Column(title="PROVIDER", text=lambda event: short_name(event.provider), least=WIDE, width=8),
    Column(title="RELAY", text=lambda event: event.relay_id, least=WIDE, width=8),
    Column(title="STREAM", text=lambda event: event.stream_id, whole=True, least=MEDIUM, width=16),
    Column(title="DETAIL", text=_detail),
)


@click.group()
def audit() -> None:
    """What happened to the streams."""


def _is_uri(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """A whole URI: by its beginning, as tables show it, nothing would be found."""
    if value:
        try:
            Identity.parse(value)
        except IdentityError as error:
            raise click.BadParameter(f"{error.subject} {error.fault}") from error
    return value


def _is_stream_id(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if value and not re.fullmatch("[0-9a-fA-F]{16}", value):
        raise click.BadParameter(f"{value!r} is not a stream's id: 16 hex digits")
    return value.lower()


Function = TypeVar("Function", bound=Callable[..., object])


def filters(function: Function) -> Function:
    """The flags that say which events are meant."""
    flags = (
        click.option(
            "--caller",
            default="",
            callback=_is_uri,
            show_default="any",
            help="URI of the calling agent, as --output json shows it.",
        ),
        click.option("--target", default="", show_default="any", help="Service that was called."),
        click.option(
            "--decision",
            type=click.Choice(list(DECISIONS)),
            show_default="any",
            help="What policy said.",
        ),
        click.option(
            "--stream-id",
            default="",
            callback=_is_stream_id,
            show_default="any",
            help="One stream, 16 hex digits.",
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
        stream_id=stream_id,
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
    "--limit", type=click.IntRange(1, MOST_PAST), default=10, help="So many of the past at first."
)
@calls_controller
async def tail(
    session: Session, *, caller: str, target: str, decision: str | None, stream_id: str, limit: int
) -> None:
    """Show the newest audit events, then every event as it is stored, until Ctrl-C.

    While the controller is away it waits, and then goes on where it was.
    """
    request = _request(session, caller, target, decision, stream_id)
    request.limit = limit
    request.follow = True
    show = (
        Lines(COLUMNS).show
        if session.output == TABLE
        else lambda event: print_record(session.output, record_of(event))
    )
    async with aclosing(_followed(session, request)) as events:
        async for event in events:
            show(event)


async def _followed(session: Session, request: pb.QueryAuditRequest) -> AsyncGenerator[Event, None]:
    """Every event, once, whatever becomes of the connection."""
    backoff = Backoff()
    begun = away = False
    while True:
        try:
            async with session.channel() as channel:
                call = AuditStub(channel).Query(request)
                if await call.initial_metadata() or await call.trailing_metadata():  # an answer
                    if away:
                        note("the controller is back")
                    begun, away = True, False
                    backoff.reset()
                async for event in call:
                    request.after_event_id = event.event_id
                    yield event
                return  # a plain controller, which nobody can follow
        except ControlError as error:
            if not begun or error.status != "UNAVAILABLE":
                raise
        if not away:
            note("the controller is away; waiting for it")
        away = True
        request.limit = MOST_PAST  # for who has seen nothing yet, all there is is new
        await asyncio.sleep(backoff.delay(LONGEST_PAUSE))


def _before_now(seconds: float | None) -> int:
    """Milliseconds since the epoch; 0 for None."""
    return 0 if seconds is None else int((time.time() - seconds) * 1000)

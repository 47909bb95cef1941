"""``outrelay-cli fleet`` and ``stream``: what the relays carry right now.

Source: commands.md, outrelay-cli.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from outrelay.cli.flags import calls_controller, examples
from outrelay.cli.output import (
    TABLE,
    WIDE,
    Column,
    age,
    print_record,
    print_rows,
    record_of,
    size,
)
from outrelay.cli.session import PROGRAM, TIMEOUT, Session
from outrelay.lib.control.v1 import fleet_pb2 as pb
from outrelay.lib.control.v1.fleet_pb2_grpc import FleetStub
from outrelay.lib.errors import ControlError
from outrelay.lib.identity.uri import SCHEME

Stream = pb.StreamInfo


def _columns(now_ms: int, *, tenants: bool) -> tuple[Column[Stream], ...]:
    return (
        Column(title="STREAM", text=lambda stream: stream.stream_id, whole=True),
        Column(title="TENANT", text=lambda stream: stream.tenant if tenants else ""),
        Column(title="SERVICE", text=lambda stream: stream.service),
        Column(title="METHOD", text=lambda stream: stream.method, least=WIDE),
        Column(title="CALLER", text=lambda stream: stream.caller.removeprefix(SCHEME)),
        Column(title="PROVIDER", text=lambda stream: stream.provider.removeprefix(SCHEME)),
        Column(
            title="AGE",
            text=lambda stream: age((now_ms - stream.opened_unix_ms) / 1000),
            whole=True,
        ),
        Column(title="UP", text=lambda stream: size(stream.bytes_up), whole=True),
        Column(title="DOWN", text=lambda stream: size(stream.bytes_down), whole=True),
        Column(title="RELAY", text=lambda stream: stream.relay_id),
    )


@click.group()
def fleet() -> None:
    """What the relays carry right now."""


@fleet.command(
    epilog=examples(
        """
        outrelay-cli fleet streams
        outrelay-cli fleet streams --limit 20 --output json
        """
    )
)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=1000, help="At most so many streams."
)
@calls_controller
async def streams(session: Session, *, limit: int) -> None:
    """Show the streams that are open, newest first.

    Whoever may touch every tenant and names none sees those of all.
    """
    request = pb.ListStreamsRequest(tenant=session.tenant, limit=limit)
    async with session.channel() as channel:
        answer = await FleetStub(channel).ListStreams(request, timeout=TIMEOUT)
    columns = _columns(int(time.time() * 1000), tenants=not session.tenant)
    print_rows(session.output, columns, answer.streams, record_of)
    if answer.truncated:
        _note(f"there are more than {limit} streams; see --limit")
    if answer.silent_relays:
        _note(f"{_silent(answer.silent_relays)}: what they carry is missing here")


@click.group()
def stream() -> None:
    """One stream."""


@stream.command(epilog=examples("outrelay-cli stream kill 00f1e2d3c4b5a697 --reason 'runaway job'"))
@click.argument("stream_id", metavar="ID")
@click.option("--reason", default="", show_default="none", help="Why, for the audit trail.")
@calls_controller
async def kill(session: Session, *, stream_id: str, reason: str) -> None:
    """End a stream now; both its applications see it reset.

    ID is 16 hex digits, as `fleet streams` and `audit query` show it.
    """
    tenant = session.required_tenant
    request = pb.KillStreamRequest(tenant=tenant, stream_id=stream_id.lower(), reason=reason)
    async with session.channel() as channel:
        answer = await FleetStub(channel).KillStream(request, timeout=TIMEOUT)
    if not answer.killed:
        fault = f"no relay carries a stream {stream_id} of {tenant}"
        if answer.silent_relays:
            fault += f" ({_silent(answer.silent_relays)})"
        raise ControlError("NOT_FOUND", fault, controller=session.controller)
    if session.output != TABLE:
        print_record(session.output, {"stream_id": request.stream_id, "killed": answer.killed})


def _silent(relays: Sequence[str]) -> str:
    return f"no answer in time from {', '.join(relays)}"


def _note(text: str) -> None:
    """What is worth knowing beside the answer."""
    click.echo(f"{PROGRAM}: {text}", err=True)

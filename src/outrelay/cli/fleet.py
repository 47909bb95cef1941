"""``outrelay-cli fleet`` and ``stream``: who is connected where, and what the relays carry.

Source: commands.md, outrelay-cli.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import click

from outrelay.cli import fleet_columns as columns
from outrelay.cli.flags import calls_controller, examples
from outrelay.cli.output import TABLE, print_record, print_rows, record_of
from outrelay.cli.rated import measured, rates_flag, recorded
from outrelay.cli.session import TIMEOUT, Session, note
from outrelay.lib.control.v1 import fleet_pb2 as pb
from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.control.v1.fleet_pb2_grpc import FleetStub
from outrelay.lib.control.v1.registry_pb2_grpc import RegistryStub
from outrelay.lib.errors import ControlError

Function = TypeVar("Function", bound=Callable[..., object])


def limited(what: str) -> Callable[[Function], Function]:
    """The flag that bounds a list."""
    return click.option(
        "--limit", type=click.IntRange(1, 10_000), default=1000, help=f"At most so many {what}."
    )


@click.group()
def fleet() -> None:
    """Who is connected where, and what the relays carry right now."""


@fleet.command(
    epilog=examples(
        """
        outrelay-cli fleet relays
        outrelay-cli fleet relays --rates
        outrelay-cli fleet relays --output json
        """
    )
)
@limited("relays")
@rates_flag
@calls_controller
async def relays(session: Session, *, limit: int, rates: bool) -> None:
    """Show the relays: whether they are up, where, and what they carry.

    Of a tenant these are the relays where it has an agent or a service, with what is the
    tenant's. Whoever may touch every tenant and names none sees all of it.
    """
    request = registry.ListRelaysRequest(tenant=session.tenant, limit=limit)
    async with session.channel() as channel:
        passing = await measured(channel, session.tenant, wanted=rates)
        answer = await RegistryStub(channel).ListRelays(request, timeout=TIMEOUT)
    rate_of = passing.of_relay if passing else None
    shown = columns.relays(_now_ms(), rate_of)
    print_rows(session.output, shown, answer.relays, recorded(rate_of))
    _note_missing("relays", limit, truncated=answer.truncated, silent=answer.silent_relays)


@fleet.command(
    epilog=examples(
        """
        outrelay-cli fleet agents
        outrelay-cli fleet agents --tenant acme --output json
        """
    )
)
@limited("connections")
@rates_flag
@calls_controller
async def agents(session: Session, *, limit: int, rates: bool) -> None:
    """Show the agents that are connected: where, since when, over which carrier.

    An agent has a line for each connection: several processes may share a certificate.
    """
    request = registry.ListAgentsRequest(tenant=session.tenant, limit=limit)
    async with session.channel() as channel:
        passing = await measured(channel, session.tenant, wanted=rates)
        answer = await RegistryStub(channel).ListAgents(request, timeout=TIMEOUT)
    rate_of = passing.of_agent if passing else None
    shown = columns.agents(_now_ms(), rate_of, tenants=not session.tenant)
    print_rows(session.output, shown, answer.agents, recorded(rate_of))
    _note_missing("connections", limit, truncated=answer.truncated, silent=answer.silent_relays)


@fleet.command(epilog=examples("outrelay-cli fleet services"))
@limited("services")
@rates_flag
@calls_controller
async def services(session: Session, *, limit: int, rates: bool) -> None:
    """Show which agent offers which service, behind which relay.

    A service is live, draining (its relay is leaving) or dead (its relay is gone without a
    word, nobody is sent there).
    """
    request = registry.ListServicesRequest(tenant=session.tenant, limit=limit)
    async with session.channel() as channel:
        passing = await measured(channel, session.tenant, wanted=rates)
        answer = await RegistryStub(channel).ListServices(request, timeout=TIMEOUT)
    rate_of = passing.of_service if passing else None
    shown = columns.services(_now_ms(), rate_of, tenants=not session.tenant)
    print_rows(session.output, shown, answer.services, recorded(rate_of))
    _note_missing("services", limit, truncated=answer.truncated)


@fleet.command(
    epilog=examples(
        """
        outrelay-cli fleet streams
        outrelay-cli fleet streams --limit 20 --output json
        """
    )
)
@limited("streams")
@rates_flag
@calls_controller
async def streams(session: Session, *, limit: int, rates: bool) -> None:
    """Show the streams that are open, newest first.

    Whoever may touch every tenant and names none sees those of all.
    """
    request = pb.ListStreamsRequest(tenant=session.tenant, limit=limit)
    async with session.channel() as channel:
        passing = await measured(channel, session.tenant, wanted=rates)
        answer = await FleetStub(channel).ListStreams(request, timeout=TIMEOUT)
    rate_of = passing.of_stream if passing else None
    shown = columns.streams(_now_ms(), rate_of, tenants=not session.tenant)
    print_rows(session.output, shown, answer.streams, recorded(rate_of))
    _note_missing("streams", limit, truncated=answer.truncated, silent=answer.silent_relays)


@fleet.command(
    epilog=examples(
        """
        outrelay-cli fleet drain r1
        outrelay-cli fleet drain r1 --yes --reason 'new kernel'
        """
    )
)
@click.argument("relay")
@click.option("--reason", default="", show_default="none", help="Why, for the relay's log.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@calls_controller
async def drain(session: Session, *, relay: str, reason: str, yes: bool) -> None:
    """Have a relay send its agents elsewhere and exit, as SIGTERM does.

    It takes no new agents, lets streams go on for as long as its --drain says, and exits with 0
    when nobody needs it any more. For operators of all tenants.
    """
    if not yes:
        click.confirm(f"Drain relay {relay}? It exits then.", abort=True, err=True)
    request = registry.DrainRelayRequest(relay_id=relay, reason=reason)
    async with session.channel() as channel:
        answer = await RegistryStub(channel).DrainRelay(request, timeout=TIMEOUT)
    if session.output != TABLE:
        print_record(session.output, {"relay_id": relay, **record_of(answer)})
        return
    carried = f"it carries {_streams(answer.streams)}"
    limit = f", for {answer.drain_ms / 1000:g} s at most" if answer.streams else ""
    click.echo(f"{relay} drains: {carried}{limit}")


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


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _streams(count: int) -> str:
    return "1 stream" if count == 1 else f"{count or 'no'} streams"


def _silent(relays: Sequence[str]) -> str:
    return f"no answer in time from {', '.join(relays)}"


def _note_missing(what: str, limit: int, *, truncated: bool, silent: Sequence[str] = ()) -> None:
    """Tell what is missing in the answer, beside it."""
    if truncated:
        note(f"there are more than {limit} {what}; see --limit")
    if silent:
        note(f"{_silent(silent)}: what they carry is missing here")

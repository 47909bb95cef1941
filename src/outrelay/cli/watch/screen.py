"""A frame as a screen: header, relays, agents, streams, each row a line. Pure.

However much there is, the screen is as high and as wide as the terminal: of what has no room
the busiest is shown, and how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from outrelay.cli import fleet_columns as fleet
from outrelay.cli.fleet_columns import Agent, Relay, Stream
from outrelay.cli.output import MEDIUM, WIDE, age, left, printable, short_name, size
from outrelay.cli.watch.follow import Frame
from outrelay.cli.watch.rates import Rate

FIXED = 8
"""Lines that are no rows: the header's three, three heads, two between."""

NEVER = 1_000_000
"""A width that no terminal has."""

BACK_SHOWN = 10.0
"""Seconds that it is told that the controller is back."""

RowT = TypeVar("RowT")

_STATES = {"up": "green", "draining": "yellow", "dead": "red", "gone": "dim", "away": "dim"}
_SOON_MS = 10 * 60 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Field(Generic[RowT]):
    """One column of a section.

    Args:
        title: Its head.
        text: What it shows of a row.
        width: Characters; 0: what is left, shared with others of 0.
        right: Whether it stands at the right of its column.
        least: Characters of a terminal's width below which it is left out.
        style: How it looks, by row.
    """

    title: str
    text: Callable[[RowT], str]
    width: int = 0
    right: bool = False
    least: int = 0
    style: Callable[[RowT], str] = lambda _row: ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a screen is of.

    Args:
        controller: Who is asked.
        tenant: Whose fleet; empty: everybody's.
        width: The terminal's, characters.
        height: Its lines.
    """

    controller: str
    tenant: str
    width: int
    height: int


def screen(frame: Frame, shown: Shown, now_ms: int) -> RenderableType:
    """The screen of a frame."""
    sample, rates = frame.sample, frame.rates

    def of_stream(stream: Stream) -> Rate:
        return rates.of_stream(stream) or Rate()

    relays = sorted(sample.relays, key=lambda each: (-rates.of_relay(each).total, each.id))
    agents = sorted(sample.agents, key=lambda each: (-rates.of_agent(each).total, each.agent_uri))
    streams = sorted(sample.streams, key=lambda each: (-of_stream(each).total, each.stream_id))
    room = share([len(relays), len(agents), len(streams)], shown.height - FIXED)
    many = not shown.tenant
    return Group(
        *_header(frame, shown, sum((rates.of_relay(each) for each in relays), Rate()), now_ms),
        _section(_relays(rates.of_relay, now_ms), relays, room[0], shown),
        "",
        _section(_agents(rates.of_agent, now_ms, tenants=many), agents, room[1], shown),
        "",
        _section(_streams(of_stream, now_ms, tenants=many), streams, room[2], shown),
    )


def share(wanted: Sequence[int], room: int) -> list[int]:
    """How many rows each section gets: as many as it has, but none at the cost of the others.

    Args:
        wanted: Rows each section has.
        room: Rows there are for all.
    """
    given = [0] * len(wanted)
    room = max(0, room)
    while room and any(map(int.__gt__, wanted, given)):
        for number, want in enumerate(wanted):
            if room and given[number] < want:
                given[number] += 1
                room -= 1
    return given


def _header(frame: Frame, shown: Shown, rate: Rate, now_ms: int) -> Iterator[RenderableType]:
    sample = frame.sample
    top = Table.grid(expand=True)
    top.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    top.add_column(no_wrap=True, justify="right")
    whose = shown.tenant or "all tenants"
    top.add_row(
        Text.assemble(("OutRelay", "bold"), f"  {printable(shown.controller)}  {whose}"),
        Text(f"{_clock(now_ms)}  q quits", style="dim"),
    )
    yield top
    counts = [
        _count(len(sample.relays), "relay", more="relays" in sample.truncated),
        _count(len(sample.agents), "agent", more="agents" in sample.truncated),
        _count(len(sample.streams), "stream", more="streams" in sample.truncated),
    ]
    if not frame.away:
        counts += [f"up {_speed(rate.up)}", f"down {_speed(rate.down)}"]
    yield Text("   ".join(counts), no_wrap=True, overflow="ellipsis")
    yield _note(frame, now_ms)


def _note(frame: Frame, now_ms: int) -> Text:
    """What somebody who looks at the screen has to know."""
    if frame.away:
        text = f"the controller is away since {_clock(frame.away_ms)}, this is older: {frame.away}"
        return _line(text, "bold red")
    if frame.away_ms and now_ms - frame.away_ms < BACK_SHOWN * 1000:
        text = f"the controller is back, it was away for {age(max(1, frame.lasted))}"
        return _line(text, "bold green")
    if frame.sample.silent:
        names = ", ".join(frame.sample.silent)
        return _line(f"no answer in time, and missing here: {names}", "yellow")
    return Text("")


def _line(text: str, style: str) -> Text:
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")


def _section(fields: Sequence[Field[RowT]], rows: Sequence[RowT], room: int, shown: Shown) -> Table:
    table = Table(box=None, pad_edge=False, expand=True, header_style="bold")
    fields = [each for each in fields if each.least <= shown.width]
    for number, each in enumerate(fields):
        cut = f" {room}/{len(rows)}" if number == 0 and room < len(rows) else ""
        table.add_column(
            each.title + cut,
            width=each.width or None,
            ratio=None if each.width else 1,
            justify="right" if each.right else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in rows[:room]:
        table.add_row(*(Text(printable(each.text(row)), style=each.style(row)) for each in fields))
    return table


def _relays(rate: Callable[[Relay], Rate], now_ms: int) -> list[Field[Relay]]:
    return [
        Field(title="RELAY", text=lambda relay: relay.id),
        Field(title="REGION", text=lambda relay: relay.region, least=MEDIUM),
        Field(
            title="STATE",
            text=fleet.state_of,
            width=8,
            style=lambda relay: _STATES[fleet.state_of(relay)],
        ),
        Field(title="AGENTS", text=lambda relay: str(relay.agents), width=6, right=True),
        Field(title="STREAMS", text=lambda relay: str(relay.streams), width=7, right=True),
        *_rates(rate, "UP/s", "DOWN/s"),
        Field(
            title="SINCE",
            text=lambda relay: fleet.since(relay.started_unix_ms, now_ms),
            width=6,
            right=True,
        ),
        _certificate(lambda relay: relay.certificate_not_after_unix_ms, now_ms),
        Field(title="ENDPOINT", text=lambda relay: relay.endpoint, least=WIDE),
        Field(title="VERSION", text=lambda relay: relay.version, width=8, least=WIDE),
    ]


def _agents(rate: Callable[[Agent], Rate], now_ms: int, *, tenants: bool) -> list[Field[Agent]]:
    return [
        Field(title="AGENT", text=lambda agent: short_name(agent.agent_uri), width=10),
        Field(title="TENANT", text=lambda agent: agent.tenant, least=0 if tenants else NEVER),
        Field(title="RELAY", text=lambda agent: agent.relay_id, least=MEDIUM),
        Field(title="OVER", text=lambda agent: agent.carrier, width=4),
        Field(title="ADDRESS", text=lambda agent: agent.address, width=21, least=WIDE),
        Field(title="SERVICES", text=fleet.services_of, least=MEDIUM if tenants else 0),
        Field(title="IN", text=lambda agent: str(agent.serving), width=4, right=True),
        Field(title="OUT", text=lambda agent: str(agent.consuming), width=4, right=True),
        *_rates(rate, "SENT/s", "GOT/s"),
        Field(
            title="SINCE",
            text=lambda agent: fleet.since(agent.since_unix_ms, now_ms),
            width=6,
            right=True,
        ),
        _certificate(lambda agent: agent.certificate_not_after_unix_ms, now_ms),
    ]


def _streams(rate: Callable[[Stream], Rate], now_ms: int, *, tenants: bool) -> list[Field[Stream]]:
    return [
        Field(title="STREAM", text=lambda stream: stream.stream_id, width=16),
        Field(
            title="TENANT",
            text=lambda stream: stream.tenant,
            least=MEDIUM if tenants else NEVER,
        ),
        Field(title="SERVICE", text=lambda stream: stream.service),
        Field(title="METHOD", text=lambda stream: stream.method, least=WIDE),
        Field(title="CALLER", text=lambda stream: short_name(stream.caller), width=8),
        Field(title="PROVIDER", text=lambda stream: short_name(stream.provider), width=8),
        Field(title="RELAY", text=lambda stream: stream.relay_id, least=MEDIUM),
        Field(title="PATH", text=lambda stream: stream.path, width=7, least=WIDE),
        *_rates(rate, "UP/s", "DOWN/s"),
        Field(
            title="SINCE",
            text=lambda stream: fleet.since(stream.opened_unix_ms, now_ms),
            width=6,
            right=True,
        ),
    ]


def _rates(rate: Callable[[RowT], Rate], up: str, down: str) -> list[Field[RowT]]:
    return [
        Field(title=up, text=lambda row: _some(rate(row).up), width=10, right=True),
        Field(title=down, text=lambda row: _some(rate(row).down), width=10, right=True),
    ]


def _certificate(ends_ms: Callable[[RowT], int], now_ms: int) -> Field[RowT]:
    def style(row: RowT) -> str:
        rest = ends_ms(row) - now_ms
        if not ends_ms(row) or rest > _SOON_MS:
            return ""
        return "yellow" if rest > 0 else "red"

    return Field(
        title="CERT",
        text=lambda row: left(ends_ms(row), now_ms),
        width=7,
        right=True,
        style=style,
    )


def _count(number: int, what: str, *, more: bool) -> str:
    return f"{number}{'+' if more else ''} {what}{'' if number == 1 else 's'}"


def _speed(rate: float) -> str:
    return f"{size(int(rate))}/s"


def _some(rate: float) -> str:
    """A rate, or nothing: a table of zeros hides what moves."""
    return size(int(rate)) if rate >= 1 else ""


def _clock(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, tz=UTC).astimezone().strftime("%H:%M:%S")

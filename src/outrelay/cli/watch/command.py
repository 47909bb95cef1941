"""The command ``outrelay-cli fleet watch``.

Source: commands.md, outrelay-cli.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

import click
from google.protobuf.message import Message
from rich.console import Console, RenderableType
from rich.live import Live

from outrelay.cli.flags import calls_controller, examples
from outrelay.cli.output import TABLE, print_record
from outrelay.cli.rated import rated
from outrelay.cli.session import Missing, Session
from outrelay.cli.watch import keys
from outrelay.cli.watch.follow import Frame, frames
from outrelay.cli.watch.screen import Shown, screen
from outrelay.lib.options import DURATION
from outrelay.lib.tasks import until

LEAST_INTERVAL = 0.1

Show = Callable[[Frame], None]
MessageT = TypeVar("MessageT", bound=Message)


@click.command(
    epilog=examples(
        """
        outrelay-cli fleet watch
        outrelay-cli fleet watch --tenant acme --interval 5s
        outrelay-cli fleet watch --output json --count 2
        """
    )
)
@click.option("--interval", type=DURATION, default="1s", help="How often to look.")
@click.option(
    "--count",
    type=click.IntRange(min=1),
    show_default="until q or Ctrl-C",
    help="End after so many looks.",
)
@calls_controller
async def watch(session: Session, *, interval: float, count: int | None) -> None:
    """Show relays, agents and streams as they are, every second; q quits.

    The busiest come first. While the controller is away the screen says so, and goes on when
    it is back. With --output json every look is one line, rates in bytes a second.
    """
    stop = asyncio.Event()
    async with _showing(session, stop) as show:
        work = _watch(session, show, max(interval, LEAST_INTERVAL), count)
        await until(stop, work, name="cli: watch")


async def _watch(session: Session, show: Show, interval: float, count: int | None) -> None:
    shown = 0
    async with aclosing(frames(session, interval)) as followed:
        async for frame in followed:
            show(frame)
            shown += 1
            if shown == count:
                return


@asynccontextmanager
async def _showing(session: Session, stop: asyncio.Event) -> AsyncIterator[Show]:
    """How frames are shown; ``stop`` is set when somebody wants no more of them."""
    if session.output != TABLE:
        yield lambda frame: _print(session, frame)
        return
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        raise Missing("there is no terminal to show a screen at; give --output json")
    with keys.quitting(stop), Live(console=console, screen=True, auto_refresh=False) as live:
        yield lambda frame: live.update(_screen(session, console, frame), refresh=True)


def _screen(session: Session, console: Console, frame: Frame) -> RenderableType:
    shown = Shown(
        controller=session.controller,
        tenant=session.tenant,
        width=console.width,
        height=console.height,
    )
    return screen(frame, shown, time.time_ns() // 1_000_000)


def _print(session: Session, frame: Frame) -> None:
    sample, rates = frame.sample, frame.rates
    record: dict[str, object] = {
        "ts_unix_ms": time.time_ns() // 1_000_000,
        "controller": session.controller,
        "away": frame.away or None,
        "away_since_unix_ms": frame.away_ms if frame.away else None,
        "sampled_unix_ms": sample.taken_ms,
        "silent_relays": list(sample.silent),
        "truncated": list(sample.truncated),
        "relays": [rated(each, rates.relays.get(each.id)) for each in sample.relays],
        "agents": [
            rated(each, rates.agents.get((each.agent_uri, each.relay_id))) for each in sample.agents
        ],
        "streams": [rated(each, rates.of_stream(each)) for each in sample.streams],
    }
    print_record(session.output, record)
    sys.stdout.flush()

"""The command ``outrelay-agent status``.

Exit codes: 0 connected, 1 not connected, 5 no agent answers.

Source: commands.md, outrelay-agent.
"""

from __future__ import annotations

import json
import time

import click

from outrelay.agent.status.asking import Status, status_at
from outrelay.agent.status.report import Rates, is_connected, show
from outrelay.lib.errors import ConfigError, Refused
from outrelay.lib.insight import DEBUG
from outrelay.lib.options import (
    OPTIONAL_ADDRESS,
    Address,
    ServiceCommand,
    config_flag,
    context_settings,
    flag,
)

EXIT_NOT_CONNECTED = 1
EXIT_UNREACHABLE = 5

BETWEEN = 0.5
"""Seconds between two looks, for the rates."""

EXAMPLES = """\
\b
Examples:
  outrelay-agent status
  outrelay-agent status --config /etc/outrelay/agent.toml
  outrelay-agent status --debug-listen 127.0.0.1:9103 --output json"""


@click.command(
    "status", cls=ServiceCommand, context_settings=context_settings("agent"), epilog=EXAMPLES
)
@flag(
    DEBUG,
    type=OPTIONAL_ADDRESS,
    default="127.0.0.1:9102",
    help="Where the agent shows itself.",
)
@click.option(
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Form of the answer.",
)
@config_flag(is_complete=False)
@click.pass_context
def status(ctx: click.Context, debug_listen: Address | None, output: str) -> None:
    """Show what the agent that runs on this host is connected with.

    It asks the debug listener of the agent. Exit codes: 0 connected, 1 not connected, 5 no
    agent answers.
    """
    if debug_listen is None:
        raise ConfigError(DEBUG, "is empty: the agent shows itself nowhere", "give it an address")
    try:
        before = status_at(debug_listen)
        time.sleep(BETWEEN)
        now = status_at(debug_listen)
    except Refused as refused:
        click.echo(f"outrelay-agent: {refused}", err=True)
        ctx.exit(EXIT_UNREACHABLE)
    rates = Rates.between(before, now)
    if output == "json":
        click.echo(json.dumps(_record(now, rates)))
    else:
        show(now, rates)
    ctx.exit(0 if is_connected(now) else EXIT_NOT_CONNECTED)


def _record(status: Status, rates: Rates) -> Status:
    return {
        **status,
        "connected": is_connected(status),
        "rate_up": round(rates.up),
        "rate_down": round(rates.down),
    }

"""``outrelay-cli controller``: the controller's own process.

Source: commands.md, outrelay-cli.
"""

from __future__ import annotations

import click

from outrelay.cli.flags import calls_controller, examples
from outrelay.cli.output import TABLE, print_record, record_of
from outrelay.cli.session import TIMEOUT, Session
from outrelay.lib.control.v1 import admin_pb2 as pb
from outrelay.lib.control.v1.admin_pb2_grpc import AdminStub
from outrelay.lib.observe import logs


@click.group()
def controller() -> None:
    """The controller's own process."""


@controller.command(
    "log-level",
    epilog=examples(
        """
        outrelay-cli --controller unix:/run/outrelay/admin.sock controller log-level
        outrelay-cli --controller unix:/run/outrelay/admin.sock controller log-level debug
        """
    ),
)
@click.argument("level", type=click.Choice(logs.LEVELS), required=False)
@calls_controller
async def log_level(session: Session, *, level: str | None) -> None:
    """Show what the controller logs at least, or change it until it is started again.

    For the admin socket and operators of the tenant system.
    """
    async with session.channel() as channel:
        request = pb.SetLogLevelRequest(level=level or "")
        answer = await AdminStub(channel).SetLogLevel(request, timeout=TIMEOUT)
    if session.output != TABLE:
        print_record(session.output, record_of(answer))
    else:
        click.echo(answer.level)

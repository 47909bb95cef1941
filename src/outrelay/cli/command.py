"""The command line of ``outrelay-cli``: its groups, and what its failures look like.

Exit codes: 0 fine, 1 failed, 2 bad usage, 3 not found, 4 refused, 5 unreachable, 78 bad
configuration.

Source: commands.md, outrelay-cli.
"""

from __future__ import annotations

import click

from outrelay import __version__
from outrelay.cli.audit import audit
from outrelay.cli.controller import controller
from outrelay.cli.flags import Common, common_flags, examples
from outrelay.cli.fleet import fleet, stream
from outrelay.cli.policy import policy
from outrelay.cli.profile import profile
from outrelay.cli.session import PROGRAM
from outrelay.cli.watch.command import watch
from outrelay.lib.errors import ConfigError, ControlError, OutRelayError
from outrelay.lib.options import context_settings
from outrelay.lib.service import EXIT_CONFIG, EXIT_FAILED, EXIT_USAGE
from outrelay.lib.usage import OneLine

EXIT_NOT_FOUND = 3
EXIT_REFUSED = 4
EXIT_UNREACHABLE = 5

_EXITS = {
    "INVALID_ARGUMENT": EXIT_USAGE,
    "NOT_FOUND": EXIT_NOT_FOUND,
    "PERMISSION_DENIED": EXIT_REFUSED,
    "UNAUTHENTICATED": EXIT_REFUSED,
    "UNAVAILABLE": EXIT_UNREACHABLE,
    "DEADLINE_EXCEEDED": EXIT_UNREACHABLE,
}


NOT_CONFIRMED = "not confirmed, so nothing was changed; --yes does not ask"


class Program(OneLine, click.Group):
    """The root of the commands, where their errors arrive."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; an error of ours is one line and an exit code."""
        try:
            return super().invoke(ctx)
        except OutRelayError as error:
            click.echo(f"{PROGRAM}: {error}", err=True)
            ctx.exit(exit_code(error))
        except click.Abort:
            click.echo(f"\n{PROGRAM}: {NOT_CONFIRMED}", err=True)
            ctx.exit(EXIT_FAILED)


def exit_code(error: OutRelayError) -> int:
    """The exit code that says what kind of error it was."""
    if isinstance(error, ConfigError):
        return EXIT_CONFIG
    if isinstance(error, ControlError):
        return _EXITS.get(error.status, EXIT_FAILED)
    return EXIT_FAILED


@click.group(
    PROGRAM,
    cls=Program,
    context_settings=context_settings("cli"),
    epilog=examples(
        """
        outrelay-cli --cert operator.pem --key operator.key --ca ca.pem policy list
        outrelay-cli --controller unix:/run/outrelay/admin.sock policy list --tenant acme
        """,
        root=True,
    ),
)
@common_flags(root=True)
@click.version_option(__version__, message=f"{PROGRAM} %(version)s")
@click.pass_context
def main(ctx: click.Context, /, **flags: object) -> None:
    """Say who may call what, and see what was called.

    The flags here may stand after the command as well. Certificates, a unix socket of the
    controller (--controller unix:PATH) or --plaintext let you in; `profile add` keeps them.
    """
    ctx.obj = Common.of(flags)


main.add_command(policy)
main.add_command(audit)
fleet.add_command(watch)
main.add_command(fleet)
main.add_command(stream)
main.add_command(profile)
main.add_command(controller)

"""What a program says to a command line that it does not understand: one line, and exit code 2.

    outrelay-relay: --listen: 'x' is not an address; write it like 127.0.0.1:7443

Click says the same in four lines. A group that is called without a command still shows its help.

Source: commands.md, exit codes.
"""

from __future__ import annotations

import re
from typing import IO

import click
from click.exceptions import NoArgsIsHelpError

from outrelay.lib.service import EXIT_USAGE

_SUGGESTION = re.compile(r"\. \(?Did (.*?)\)?$")


class OneLine(click.Command):
    """A command whose usage errors, and those of its subcommands, are one line each."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: object,
    ) -> click.Context:
        """Read the flags."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise self._one_line(error) from error

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; a group reads the flags of its commands only now."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise self._one_line(error) from error

    def _one_line(self, error: click.UsageError) -> click.ClickException:
        if isinstance(error, NoArgsIsHelpError):
            return error
        program = program_of(error.ctx) if error.ctx else self.name or ""
        return _UsageFault(program, line_of(error))


class _UsageFault(click.ClickException):
    exit_code = EXIT_USAGE

    def __init__(self, program: str, fault: str) -> None:
        super().__init__(fault)
        self._program = program

    def show(self, file: IO[str] | None = None) -> None:
        click.echo(f"{self._program}: {self.message}", file=file, err=True)


def program_of(ctx: click.Context) -> str:
    """Which program's command line it is, whatever the command."""
    return ctx.command_path.split()[0]


def line_of(error: click.UsageError) -> str:
    """What is wrong with a command line, and where to look it up where the fault does not say."""
    fault = " ".join(_fault_of(error).split())
    if "; " in fault or error.ctx is None:
        return fault
    return f"{fault}; see: {error.ctx.command_path} --help"


def _fault_of(error: click.UsageError) -> str:
    param = error.param if isinstance(error, click.BadParameter) else None
    if param is None:
        text = _SUGGESTION.sub(r"; did \1", error.format_message()).rstrip(".")
        return text[:1].lower() + text[1:]
    name = _name_of(param)
    if isinstance(error, click.MissingParameter):
        return f"{name}: is missing"
    assert isinstance(error, click.BadParameter)
    return f"{name}: {error.message.rstrip('.').replace('integer range', 'number')}"


def _name_of(param: click.Parameter) -> str:
    """A flag's longest form; of an argument what the help shows, or its name where that is long."""
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    shown = param.human_readable_name
    return (param.name or "").upper() if "|" in shown else shown

"""What a command line in a manifest, a unit or a page means to the program it names.

The programs' own parsers read it, in an environment of its own: a flag, a command, a value or
a variable that does not exist is an error, and so is what the program would refuse as a whole.
Nothing is run, and no file is looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import PurePath
from unittest import mock

import click

from outrelay.tools.reference import programs

NOTHING: Mapping[str, str] = {}
OURS = "OUTRELAY_"
_ACTS = ("log_format", "log_level", "only_check", "action")
"""What a service's options do not have: how to run it."""


def is_ours(line: Sequence[str]) -> bool:
    """Whether the first word is one of the package's programs."""
    return bool(line) and PurePath(line[0]).name in _programs()


def understood(line: Sequence[str], environment: Mapping[str, str] = NOTHING) -> click.Context:
    """The last command of a command line, with its values.

    Args:
        line: The program, or a path to it, and its arguments.
        environment: The variables it has; only those of OutRelay matter.

    Raises:
        click.ClickException: The program would refuse it.
        AssertionError: A variable means nothing to the program.
    """
    name = PurePath(line[0]).name
    with mock.patch.dict(os.environ, environment, clear=True):
        ctx = _context(_programs()[name], name, line[1:], None)
    known = {variable for each in _lineage(ctx) for variable in _variables(each)}
    unknown = {each for each in environment if each.startswith(OURS)} - known
    assert not unknown, f"{name} knows no {sorted(unknown)}"
    return ctx


def options(line: Sequence[str], environment: Mapping[str, str] = NOTHING) -> object:
    """The options that a service would run with; arguments and errors as of ``understood``."""
    ctx = understood(line, environment)
    flags = {name: value for name, value in ctx.params.items() if name not in _ACTS}
    build: Callable[..., object] = vars(ctx.command.callback)["__wrapped__"]
    with ctx:
        return build(**flags)


@cache
def _programs() -> Mapping[str, click.Command]:
    return {str(program.name): program for program in programs()}


def _context(
    command: click.Command, name: str, arguments: Sequence[str], parent: click.Context | None
) -> click.Context:
    ctx = command.make_context(name, list(arguments), parent)
    if not isinstance(command, click.Group):
        return ctx
    inner, found, rest = command.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
    assert inner is not None
    assert found is not None
    return _context(found, inner, rest, ctx)


def _lineage(ctx: click.Context) -> list[click.Context]:
    return [ctx, *(_lineage(ctx.parent) if ctx.parent else [])]


def _variables(ctx: click.Context) -> list[str]:
    return [f"{ctx.auto_envvar_prefix}_{param.name}".upper() for param in ctx.command.params]

"""Flags that every command has, and what makes a function with them a command.

They may stand before or after the name of the command; what stands after it counts.
Environment variables (``OUTRELAY_CLI_CONTROLLER``) come next, then the profile, then the
default.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import textwrap
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from outrelay.cli.output import FORMATS
from outrelay.cli.profiles import Settings, load, profiles_path
from outrelay.cli.session import DEFAULT_CONTROLLER, Session
from outrelay.lib.options import FILE

EXIT_INTERRUPTED = 128 + signal.SIGINT
"""What shells make of a program that Ctrl-C ended."""

Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """The common flags of one place of the command line."""

    settings: Settings
    output: str | None
    profile: str | None

    @classmethod
    def of(cls, flags: dict[str, object]) -> Common:
        """Take the common flags out of ``flags``."""
        output, profile = flags.pop("output"), flags.pop("profile")
        names = Settings.__dataclass_fields__
        settings = Settings(**{name: flags.pop(name) for name in names})  # type: ignore[arg-type]
        assert output is None or isinstance(output, str)
        assert profile is None or isinstance(profile, str)
        return cls(settings=settings, output=output, profile=profile)

    def over(self, other: Common) -> Common:
        """These flags, and ``other`` where they say nothing."""
        return Common(
            settings=self.settings.over(other.settings),
            output=self.output or other.output,
            profile=self.profile or other.profile,
        )

    def session(self) -> Session:
        """The session they ask for, with the profile where they say nothing.

        Raises:
            ConfigError: The profile or a file cannot be used.
            Missing: A setting is missing.
        """
        profile = load(profiles_path()).get(self.profile or "")
        return Session.of(self.settings.over(profile), self.output or FORMATS[0])


def common_flags(*, root: bool) -> Callable[[Function], Function]:
    """The common flags; those of a command are shown in the help of the root only."""
    flag = functools.partial(click.option, allow_from_autoenv=root, hidden=not root)
    visible = functools.partial(click.option, allow_from_autoenv=root)
    flags = (
        flag(
            "--controller",
            metavar="HOST:PORT|unix:PATH",
            show_default=DEFAULT_CONTROLLER,
            help="The controller, or its admin socket.",
        ),
        visible("--tenant", show_default="the operator's", help="Whose policy and audit."),
        flag("--cert", type=FILE, help="Operator's certificate (PEM)."),
        flag("--key", type=FILE, help="Its private key (PEM)."),
        flag("--ca", type=FILE, help="CA certificates (PEM) the controller is verified by."),
        flag(
            "--plaintext",
            is_flag=True,
            default=None,
            help="Call without TLS (a loopback listener).",
        ),
        visible(
            "--output", type=click.Choice(FORMATS), show_default=FORMATS[0], help="Form of answers."
        ),
        flag("--profile", show_default="the one in use", help="Profile to take the rest from."),
    )

    def decorate(function: Function) -> Function:
        for each in reversed(flags):
            function = each(function)
        return function

    return decorate


def calls_controller(
    function: Callable[..., Coroutine[object, object, None]],
) -> Callable[..., None]:
    """Give the function of a command its Session as the first argument, and run it."""

    @common_flags(root=False)
    @click.pass_context
    @functools.wraps(function)
    def run(ctx: click.Context, /, **flags: object) -> None:
        common = Common.of(flags)
        session = common.over(ctx.find_object(Common) or common).session()
        try:
            asyncio.run(function(session, **flags))
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)

    return run


def examples(text: str, *, root: bool = False) -> str:
    """The end of a help text."""
    shown = "\b\nExamples:\n" + textwrap.indent(textwrap.dedent(text).strip(), "  ")
    return shown if root else f"{shown}\n\nFlags that every command takes: outrelay-cli --help"


def absolute(path: Path | None) -> Path | None:
    """A path that means the same from every directory."""
    return path.absolute() if path else None

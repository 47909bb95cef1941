"""Command lines: flags that are also environment variables and keys of a TOML file.

A value comes from the flag, else from the environment (``OUTRELAY_RELAY_LISTEN`` for the
relay's ``--listen``; an empty variable counts as unset), else from the key ``listen`` of
the ``--config`` file, else from the default. A flag that may be repeated takes comma lists
wherever it comes from, and arrays in the file.

    @command("relay", run=app.run, check=app.check, examples="outrelay-relay --cert ...")
    @flag("--listen", type=ADDRESS, default="127.0.0.1:7443", help="Where agents dial in.")
    @credential_flags(required=True)
    def main(listen: Address, cert: Path, key: Path, ca: Path) -> RelayOptions:
        \"\"\"What the help says first.\"\"\"
        return RelayOptions(listen=listen, ...)

``main()`` is then the program, with the flags that all services have: ``--config``,
``--check``, ``--log-format``, ``--log-level``, ``--version``.

Exit codes: 2 for a bad command line, 78 for a value from anywhere else that is bad, and
for one that is missing everywhere.

Source: commands.md.
"""

from __future__ import annotations

import asyncio
import functools
import textwrap
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from outrelay import __version__
from outrelay.lib import advice
from outrelay.lib.errors import ConfigError
from outrelay.lib.observe import logs
from outrelay.lib.service import EXIT_CONFIG, act, print_fault, serve
from outrelay.lib.usage import OneLine, program_of
from outrelay.lib.values import (
    Address,
    address_text,
    parse_address,
    parse_duration,
    parse_optional_address,
    parse_size,
)

__all__ = [
    "ADDRESS",
    "COUNT",
    "DURATION",
    "FILE",
    "FOLDER",
    "OPTIONAL_ADDRESS",
    "SIZE",
    "Address",
    "Flag",
    "ParsedType",
    "ServiceCommand",
    "address_text",
    "command",
    "config_flag",
    "context_settings",
    "credential_flags",
    "flag",
    "together",
    "written",
]

OptionsT = TypeVar("OptionsT")
Action = Callable[[OptionsT, str], Awaitable[int]]
"""Something else than to run the service; gets the options and ``--log-format``, gives the
exit code."""

RUN = "run"
"""What a program does unless it is told another of its actions."""

Parsed = TypeVar("Parsed")
Decorated = TypeVar("Decorated", bound=Callable[..., object])


class ParsedType(click.ParamType[Parsed]):
    """A click type made of a parsing function.

    Args:
        name: What the help shows for the value.
        parse: Text to value; a ValueError's message is what the user reads.
    """

    def __init__(self, name: str, parse: Callable[[str], Parsed]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Parsed:
        """The value that a text stands for.

        Raises:
            click.BadParameter: It stands for none.
        """
        try:
            return self._parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = ParsedType("duration", parse_duration)
SIZE = ParsedType("size", parse_size)
ADDRESS = ParsedType("host:port", parse_address)
OPTIONAL_ADDRESS = ParsedType("host:port", parse_optional_address)


class _Count(click.IntRange):
    name = "number"  # click's is "integer range", in help and in messages


COUNT = _Count(min=1)
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


# ---- flags ---------------------------------------------------------------------------------


class Flag(click.Option):
    """An option that, when it may be repeated, takes comma lists as well."""

    def type_cast_value(self, ctx: click.Context, value: object) -> object:
        """Convert what was given; see the module's text for lists."""
        if self.multiple and isinstance(value, Iterable):
            parts = (part.strip() for text in value for part in str(text).split(","))
            value = [part for part in parts if part]
        if self.name:
            ctx.meta.setdefault(_WRITTEN, {})[self.name] = _text_of(value)
        return super().type_cast_value(ctx, value)


_WRITTEN = f"{__name__}.written"


def _text_of(value: object) -> str | list[str] | None:
    if isinstance(value, list | tuple):
        return [str(each) for each in value]
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


def written(ctx: click.Context) -> Mapping[str, str | list[str] | None]:
    """The values of all flags as people write them, by the flags' names in Python.

    Nothing is left out of them, passwords neither.
    """
    return dict(ctx.meta.get(_WRITTEN, {}))


flag = functools.partial(click.option, cls=Flag)
"""``click.option`` for our programs. Defaults are written as people write the values."""


def together(*flags: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    """Several flags as one decorator, in the order the help has them."""

    def decorate(function: Decorated) -> Decorated:
        for each in reversed(flags):
            function = each(function)
        return function

    return decorate


def credential_flags(*, required: bool) -> Callable[[Decorated], Decorated]:
    """``--cert``, ``--key`` and ``--ca``, passed on as paths (None when optional and absent)."""
    flags = (
        ("--cert", "Certificate (PEM) whose URI SAN is this program's identity."),
        ("--key", "Private key (PEM) of the certificate."),
        ("--ca", "CA certificates (PEM) that peers are verified by."),
    )
    return together(*(flag(name, type=FILE, required=required, help=text) for name, text in flags))


def command(
    component: str,
    *,
    run: Callable[[OptionsT, asyncio.Event], Awaitable[None]],
    check: Callable[[OptionsT], Iterable[str]],
    examples: str,
    actions: Mapping[str, Action[OptionsT]] | None = None,
    runs_on: Callable[[], str] | None = None,
    others: Mapping[str, click.Command] | None = None,
) -> Callable[[Callable[..., OptionsT]], click.Command]:
    """Make a service's program out of the function that turns its flags into its options.

    The function's docstring is the help. It may raise ConfigError.

    Args:
        component: ``relay``, ``agent`` or ``controller``.
        run: The service; see ``outrelay.lib.service.serve``.
        check: What ``--check`` finds at fault, one line each; nothing when all is well.
        examples: Command lines that work, for the end of the help.
        actions: What else the program does when an argument names it, with the same flags.
        runs_on: What ``--version`` says beside the version.
        others: What it does, with flags of their own, when the first argument names them.
    """
    actions = actions or {}

    def decorate(build: Callable[..., OptionsT]) -> click.Command:
        @functools.wraps(build)
        def start(
            *,
            log_format: str,
            log_level: str,
            only_check: bool,
            action: str = RUN,
            **flags: object,
        ) -> None:
            options = build(**flags)
            if action in (others or {}):
                raise click.UsageError(f"write {action!r} before the flags: {action} has its own")
            if only_check:
                _report_faults(component, list(check(options)))
            if action in actions:
                work = functools.partial(actions[action], options, log_format)
                act(component, work, log_format=log_format, log_level=log_level)
            work_on = functools.partial(run, options)
            serve(component, work_on, log_format=log_format, log_level=log_level)

        made: click.Command = click.command(
            f"outrelay-{component}",
            cls=ServiceCommand,
            context_settings=context_settings(component),
            epilog=_epilog(examples),
        )(start)
        assert isinstance(made, ServiceCommand)
        made.others = dict(others or {})
        if actions or others:
            made = _with_actions(made, [RUN, *actions, *made.others])
        return _with_common_flags(made, runs_on)

    return decorate


def _with_actions(made: click.Command, names: list[str]) -> click.Command:
    metavar = f"[{'|'.join(names)}]"
    choice = click.Choice(names)
    return click.argument("action", metavar=metavar, type=choice, default=RUN)(made)


def _epilog(examples: str) -> str:
    """The examples as they are: click re-wraps each paragraph that has no mark before it."""
    text = "Examples:\n" + textwrap.indent(textwrap.dedent(examples).strip(), "  ")
    return "\n\n".join(f"\b\n{paragraph}" for paragraph in text.split("\n\n"))


def context_settings(component: str) -> dict[str, object]:
    """Click's settings for a program: its environment variables and how help looks."""
    return {
        "auto_envvar_prefix": f"OUTRELAY_{component.upper()}",
        "show_default": True,
        "max_content_width": 100,
    }


def config_flag(*, is_complete: bool = True) -> Callable[[Decorated], Decorated]:
    """``--config``, whose values are the defaults of the other flags.

    Args:
        is_complete: Whether all keys of the file must be flags; one that belongs to another
            command as well has more.
    """
    return flag(
        "--config",
        type=FILE,
        is_eager=True,
        expose_value=False,
        callback=functools.partial(_read_config, is_complete=is_complete),
        help="TOML file with values for flags not given otherwise.",
    )


def _with_common_flags(made: click.Command, runs_on: Callable[[], str] | None) -> click.Command:
    for decorate in (
        config_flag(),
        flag("--log-format", type=click.Choice(logs.FORMATS), default="text", help="Form of logs."),
        flag("--log-level", type=click.Choice(logs.LEVELS), default="info", help="Least level."),
        flag(
            "--check",
            "only_check",
            is_flag=True,
            help="Check configuration, certificates and listeners, then exit: 0 or 78.",
        ),
        _version_flag(f"{made.name} {__version__}", runs_on),
    ):
        made = decorate(made)
    return made


def _version_flag(
    version: str, runs_on: Callable[[], str] | None
) -> Callable[[Decorated], Decorated]:
    def show(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted:
            click.echo(f"{version} ({runs_on()})" if runs_on else version)
            context.exit()

    return click.option(
        "--version",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show the version and exit.",
    )


def quic_engine_flag(made: Decorated) -> Decorated:
    """``--quic-engine``, of the programs that speak QUIC."""
    return flag(
        "--quic-engine",
        type=click.Choice(["auto", "aioquic", "native"]),
        default="auto",
        help="What builds the packets; auto: native, the faster, where it is installed.",
    )(made)


def _report_faults(component: str, faults: list[str]) -> NoReturn:
    for fault in faults:
        print_fault(component, fault)
    if not faults:
        click.echo(f"outrelay-{component}: the configuration is fine")
    raise SystemExit(EXIT_CONFIG if faults else 0)


# ---- the configuration file ----------------------------------------------------------------

_CONFIG_PATH = f"{__name__}.config"
_TYPES: tuple[tuple[type, type], ...] = (
    (click.types.BoolParamType, bool),
    (click.types.IntParamType, int),
)
_KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", str: "a string"}


def _read_config(
    ctx: click.Context, _param: click.Parameter, path: Path | None, *, is_complete: bool
) -> None:
    """Make the values of the file the defaults of the flags."""
    if path is None:
        return
    flags = {each.name: each for each in ctx.command.params if _is_configurable(each)}
    values = {key.replace("-", "_"): value for key, value in _load(path).items()}
    unknown = sorted(values.keys() - flags.keys())
    for key in [] if is_complete else unknown:
        del values[key]
    if unknown and is_complete:
        names = ", ".join(key.replace("_", "-") for key in unknown)
        raise ConfigError(
            str(path), f"unknown keys: {names}", "keys are named like flags, see --help"
        )
    for key, value in values.items():
        _check_kind(f"{path}: {key.replace('_', '-')}", flags[key], value)
    ctx.meta[_CONFIG_PATH] = path
    ctx.default_map = {
        key: [value] if flags[key].multiple and isinstance(value, str) else value
        for key, value in values.items()
    }


def _is_configurable(param: click.Parameter) -> bool:
    return isinstance(param, click.Option) and not param.is_eager and param.name != "only_check"


def _load(path: Path) -> Mapping[str, object]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        fault = f"cannot be read: {error.strerror}"
        raise ConfigError(str(path), fault, advice.on_file(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"is not TOML: {error}") from error


def _check_kind(subject: str, param: click.Parameter, value: object) -> None:
    kind = next((kind for click_type, kind in _TYPES if isinstance(param.type, click_type)), str)
    elements = value if param.multiple and isinstance(value, list) else [value]
    if any(type(each) is not kind for each in elements):
        lists = " or an array of them" if param.multiple else ""
        raise ConfigError(subject, f"must be {_KINDS[kind]}{lists}, not {value!r}")


# ---- faults --------------------------------------------------------------------------------


class ServiceCommand(OneLine):
    """A command that ends with 78 and one line when its configuration is at fault."""

    others: Mapping[str, click.Command] = {}
    """Commands with flags of their own, by the word that comes first."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """The context of this command, or of another one that the first word names."""
        if args and (other := self.others.get(args[0])):
            return other.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the flags; what is wrong elsewhere than on the command line is a fault."""
        try:
            return super().parse_args(ctx, args)
        except ConfigError as error:
            raise _Fault(ctx, str(error)) from error
        except click.BadParameter as error:
            fault = _fault_of(error, ctx)
            if fault is None:
                raise
            raise _Fault(ctx, fault) from error

    def invoke(self, ctx: click.Context) -> None:
        """Run the program."""
        if ctx.command is not self:
            ctx.command.invoke(ctx)
            return
        try:
            super().invoke(ctx)
        except ConfigError as error:
            raise _Fault(ctx, str(error)) from error


class _Fault(click.ClickException):
    exit_code = EXIT_CONFIG

    def __init__(self, ctx: click.Context, fault: str) -> None:
        super().__init__(fault)
        self._program = program_of(ctx)

    def show(self, file: IO[str] | None = None) -> None:
        click.echo(f"{self._program}: {self.message}", file=file, err=True)


def _fault_of(error: click.BadParameter, ctx: click.Context) -> str | None:
    """What to tell when the value did not come from the command line."""
    assert error.param is not None
    assert error.param.name is not None
    key = error.param.name.replace("_", "-")
    variable = f"{ctx.auto_envvar_prefix}_{error.param.name.upper()}"
    if isinstance(error, click.MissingParameter):
        return f"--{key}: is missing; give the flag, {variable}, or {key!r} in the --config file"
    source = ctx.get_parameter_source(error.param.name)
    if source is ParameterSource.ENVIRONMENT:
        return f"{variable}: {error.message}"
    if source is ParameterSource.DEFAULT_MAP:
        return f"{ctx.meta[_CONFIG_PATH]}: {key}: {error.message}"
    return None

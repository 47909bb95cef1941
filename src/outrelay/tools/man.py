"""Writes man pages of all commands, from click's commands as ``docs/reference/flags.md`` is.

Source: man(7).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from outrelay import __version__
from outrelay.tools.reference import default_of, programs, variable

OUT = Path("build") / "man"


def pages(command: click.Command, ctx: click.Context) -> Iterator[tuple[str, str]]:
    """Name and text of the page of a command, and of its subcommands."""
    name = ctx.command_path.replace(" ", "-")
    yield f"{name}.1", "\n".join(_page(command, ctx, name)) + "\n"
    if isinstance(command, click.Group):
        for word in command.list_commands(ctx):
            inner = command.get_command(ctx, word)
            assert inner is not None
            yield from pages(inner, click.Context(inner, info_name=word, parent=ctx))


def _page(command: click.Command, ctx: click.Context, name: str) -> Iterator[str]:
    yield f'.TH "{name.upper()}" 1 "" "OutRelay {__version__}"'
    yield from (".SH NAME", f"{_escaped(name)} \\- {_escaped(command.get_short_help_str(200))}")
    usage = " ".join(command.collect_usage_pieces(ctx))
    yield from (".SH SYNOPSIS", f".B {_escaped(ctx.command_path)}", _escaped(usage))
    yield ".SH DESCRIPTION"
    yield from _paragraphs(command.help or "")
    options = [
        each for each in command.params if isinstance(each, click.Option) and not each.hidden
    ]
    if options:
        yield ".SH OPTIONS"
        for option in options:
            yield from _option(option, ctx)
    if isinstance(command, click.Group):
        yield ".SH COMMANDS"
        for word in command.list_commands(ctx):
            yield from (".TP", f".BR {_escaped(name)}\\-{_escaped(word)} (1)")
            inner = command.get_command(ctx, word)
            yield _escaped(inner.get_short_help_str(200) if inner else "")
    if command.epilog:
        yield from (".SH EXAMPLES", *_paragraphs(command.epilog.replace("Examples:\n", "")))


def _option(option: click.Option, ctx: click.Context) -> Iterator[str]:
    value = "" if option.is_flag else f" {option.make_metavar(ctx)}"
    yield from (".TP", f".B {_escaped(', '.join((*option.opts, *option.secondary_opts)) + value)}")
    facts = (("default", default_of(option)), ("variable", variable(option, ctx)))
    told = ", ".join(f"{what} {value.strip('`')}" for what, value in facts if value)
    yield _escaped(f"{option.help or ''}{f' ({told})' if told else ''}")


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs; those with click's mark against wrapping stay as they are."""
    for paragraph in inspect.cleandoc(text.split("\f", maxsplit=1)[0]).split("\n\n"):
        if paragraph.startswith("\b\n"):
            yield from (".PP", ".nf", _escaped(paragraph[2:]), ".fi")
        else:
            yield from (".PP", _escaped(paragraph))


def _escaped(text: str) -> str:
    """Text that no line of which is taken for a request."""
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(
        f"\\&{line}" if line[:1] in (".", "'") else line for line in plain.splitlines()
    )


@click.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=OUT, help="Folder."
)
def main(out: Path) -> None:
    """Write the man pages of all commands."""
    out.mkdir(parents=True, exist_ok=True)
    for program in programs():
        ctx = click.Context(program, info_name=program.name, **program.context_settings)
        for name, text in pages(program, ctx):
            (out / name).write_text(text)


if __name__ == "__main__":
    main()

"""One line for a command line that nobody understands."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from outrelay.lib.options import COUNT
from outrelay.lib.usage import OneLine, line_of


class Group(OneLine, click.Group):
    """As the CLI's root."""


@click.group("tool", cls=Group)
def tool() -> None:
    """Do things."""


@tool.command()
@click.option("-n", "--number", type=COUNT, required=True)
@click.argument("what", required=False)
def count(number: int, what: str) -> None:
    """Count."""


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ("count", "--number: is missing; see: tool count --help"),
        ("count -n x", "--number: 'x' is not a valid number; see: tool count --help"),
        ("count -n 0", "--number: 0 is not in the range x>=1; see: tool count --help"),
        ("count -n 1 a b", "got unexpected extra argument (b); see: tool count --help"),
        (
            "count --numbers 1",
            "no such option '--numbers'; did you mean '--number'?",
        ),
        ("cuont", "no such command 'cuont'; did you mean 'count'?"),
        ("--nope", "no such option '--nope'; see: tool --help"),
    ],
)
def test_what_is_wrong(args: str, line: str) -> None:
    done = CliRunner().invoke(tool, args.split())
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"tool: {line}\n")


def test_a_group_without_a_command_shows_its_help() -> None:
    done = CliRunner().invoke(tool, [])
    assert done.exit_code == 2
    assert "Commands:\n  count  Count.\n" in done.stderr


def test_an_error_of_nobody() -> None:
    assert line_of(click.UsageError("Not like this.")) == "not like this"

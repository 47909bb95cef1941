"""The reference: what its pages show, and that the committed ones are current."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from outrelay.lib.options import ADDRESS, context_settings, flag
from outrelay.lib.orp.fsm import diagram
from outrelay.tools import reference
from outrelay.tools.reference import main, pages


@click.command("outrelay-thing", context_settings=context_settings("thing"))
@flag("--listen", type=ADDRESS, default="127.0.0.1:1", help="Where.")
@flag("--relay", type=ADDRESS, multiple=True, default=["a:1", "b:2"], help="Relays.")
@flag("--mode", type=click.Choice(["a", "b"]), required=True, help="How.")
@flag("--fast", is_flag=True, help="No waiting.")
@flag("--secret", hidden=True, help="Nobody's business.")
@click.version_option("1")
def thing() -> None:
    """Do the thing."""


@click.group("outrelay-many", context_settings=context_settings("many"))
def many() -> None:
    """Do many things."""


@many.command("add")
@flag("--note", help="Why.")
@click.argument("what")
def add(note: str, what: str) -> None:
    """Add a thing."""


def test_a_program_is_a_section_with_a_row_for_each_flag() -> None:
    section = pages([thing])["flags.md"].split("\n## ")[1]

    assert section.splitlines() == [
        "outrelay-thing",
        "",
        "Do the thing.",
        "",
        "    outrelay-thing [OPTIONS]",
        "",
        "| flag | variable | default | |",
        "|---|---|---|---|",
        "| `--listen` HOST:PORT | `OUTRELAY_THING_LISTEN` | `127.0.0.1:1` | Where. |",
        "| `--relay` HOST:PORT | `OUTRELAY_THING_RELAY` | `a:1,b:2` | Relays. (may be repeated) |",
        "| `--mode` [a\\|b] | `OUTRELAY_THING_MODE` | required | How. |",
        "| `--fast` | `OUTRELAY_THING_FAST` |  | No waiting. |",
        "| `--version` |  |  | Show the version and exit. |",
    ]


def test_subcommands_are_sections_too() -> None:
    _, group, command = pages([many])["flags.md"].replace("###", "##").split("\n## ")

    assert group.startswith(
        "outrelay-many\n\nDo many things.\n\n    outrelay-many [OPTIONS] COMMAND"
    )
    assert "    outrelay-many add [OPTIONS] WHAT\n" in command
    assert "| `--note` TEXT | `OUTRELAY_MANY_ADD_NOTE` |  | Why. |" in command


def test_the_states_are_drawn_from_the_table() -> None:
    assert f"```mermaid\n{diagram()}```\n" in pages([])["stream-states.md"]


def test_what_was_written_is_current_until_it_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "programs", lambda: [thing, many])
    out = tmp_path / "docs" / "reference"

    def run(*args: str) -> Result:
        return CliRunner().invoke(main, ["--out", str(out), *args])

    assert run("--check").exit_code == 1
    assert not out.exists()
    assert run().exit_code == 0
    assert run("--check").exit_code == 0

    (out / "flags.md").write_text("lies")
    result = run("--check")

    assert result.exit_code == 1
    assert "not current: flags.md; run `make docs-reference`" in result.output

"""Man pages: one for each command, and nothing in them that troff does not like."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from outrelay.tools.man import main, pages
from outrelay.tools.reference import programs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("man")
    assert CliRunner().invoke(main, ["--out", str(out)]).exit_code == 0
    return out


def test_every_program_and_subcommand_has_one(folder: Path) -> None:
    names = {page.name for page in folder.iterdir()}
    assert {f"{program.name}.1" for program in programs()} <= names
    assert {"outrelay-cli-policy.1", "outrelay-cli-policy-add.1"} <= names


def test_a_page_says_what_the_help_says(folder: Path) -> None:
    page = (folder / "outrelay-cli-policy-add.1").read_text()
    assert ".SH NAME\noutrelay\\-cli\\-policy\\-add \\- Add a rule and print its id.\n" in page
    assert ".TP\n.B \\-\\-caller TEXT\nAgents that call; * matches any characters. (default" in page
    assert ".SH EXAMPLES\n.PP\n.nf\n" in page


def test_lines_are_no_requests() -> None:
    command = click.Command("tool", help=".sh\n\n'quoted \\ text")
    ((_, page),) = pages(command, click.Context(command, info_name="tool"))
    assert "\n\\&.sh\n" in page
    assert "\n\\&'quoted \\e text\n" in page


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff, of man")
def test_troff_has_nothing_to_say(folder: Path) -> None:
    files = sorted(map(str, folder.iterdir()))
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", *files], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert "print its id" in done.stdout

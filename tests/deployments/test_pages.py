"""What the pages about deployments say: the programs understand it, and the files are there."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from outrelay import __version__
from tests.deployments.command_lines import is_ours, options, understood
from tests.deployments.manifests import DEPLOYMENTS, ROOT

NAMES = ("kubernetes", "systemd", "laptops", "monitoring")
PAGES = [ROOT / "docs" / "operations" / f"{name}.md" for name in NAMES]
COMMENTED = [DEPLOYMENTS / "compose.yaml", *DEPLOYMENTS.glob("base/10-*.yaml")]
"""Files with commands in their first comment."""

SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
FILE = re.compile(r"\b(deployments/[\w./-]*\w)")
VERSION = re.compile(r"\boutrelay[:-](\d+\.\d+\.\d+)")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)


def lines(page: Path) -> Iterator[list[str]]:
    """The lines of code of a page or a comment, as a shell splits them."""
    text = page.read_text()
    if page.suffix == ".md":
        text = "".join(SHELL.findall(text))
    for line in text.replace("\n# ", "\n ").replace("\\\n", " ").splitlines():
        with suppress(ValueError):  # prose with an apostrophe
            yield shlex.split(line, comments=True)


def commands(page: Path) -> Iterator[list[str]]:
    """The command lines of ours, whatever runs them: sudo, kubectl exec, docker compose exec."""
    for words in lines(page):
        starts = [at for at, word in enumerate(words) if is_ours([word])]
        if starts and (words[: starts[0]] in ([], ["sudo"]) or words[0] in ("kubectl", "docker")):
            yield words[starts[0] :]


@pytest.mark.parametrize("page", [*PAGES, *COMMENTED], ids=lambda path: path.name)
def test_commands_are_understood(page: Path) -> None:
    for command in commands(page):
        if "--config" in command:
            continue  # below
        understood(command)


def test_commands_are_found() -> None:
    found = [command[0] for page in (*PAGES, *COMMENTED) for command in commands(page)]

    assert {Path(name).name for name in found} == {"dev-pki", "outrelay-cli", "outrelay-agent"}


def test_the_file_of_an_agent_is_understood(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operations" / "laptops.md").read_text()
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "agent.toml"
    path.write_text(text)

    assert tomllib.loads(text)
    options(["outrelay-agent", "--config", str(path)])


@each_page
def test_files_it_names_are_there(page: Path) -> None:
    names = {*FILE.findall(page.read_text())}

    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []


def test_tables_name_what_is_there() -> None:
    folders = {"kubernetes": DEPLOYMENTS, "monitoring": DEPLOYMENTS / "observability"}
    for name, folder in folders.items():
        page = (ROOT / "docs" / "operations" / f"{name}.md").read_text()
        named = set(re.findall(r"^\| `([\w./-]+)` \|", page, re.MULTILINE))
        there = {path.name for path in folder.glob("*.*") if path.name != "compose.yaml"}
        there |= {f"overlays/{path.name}" for path in folder.glob("overlays/*")}
        assert named == there


@each_page
def test_versions_are_this_one(page: Path) -> None:
    assert set(VERSION.findall(page.read_text())) <= {__version__}

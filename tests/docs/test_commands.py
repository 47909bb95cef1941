"""What pages tell people to type works: it is typed here.

The commands of a page are one script (``tests.docs.scripts``), run by real processes; ``TOGETHER``
are pages about something that runs, which share it. See ``tests.docs.blocks`` for how pages say
what is run. What cannot run here is in ``ELSEWHERE``, and checked as far as that goes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import click
import pytest
import yaml

from tests.docs.blocks import PAGES, ROOT, Way, blocks, indented, words
from tests.docs.scripts import environment, furnish, script_of
from tests.support.patience import PATIENCE

SCRIPTS = distribution("outrelay").entry_points.select(group="console_scripts")
PROGRAMS: dict[str, click.Command] = {each.name: each.load() for each in SCRIPTS}

DOCS = ROOT / "docs"
TOGETHER = (
    DOCS / "operations" / "correlate.md",
    DOCS / "troubleshooting.md",
    DOCS / "migration.md",
    DOCS / "operations" / "laptops.md",
    DOCS / "operations" / "observability.md",
    DOCS / "operations" / "fleet.md",  # drains the relay at its end
)

ELSEWHERE = {
    "curl http://127.0.0.1:8000/": "goes to a cluster",
    "docker": "needs an engine; compose.yaml is checked in tests/deployments",
    "export PATH=": "belongs to an installation",
    "journalctl": "needs systemd as the first process",
    "jq": "need not be installed; what it reads is looked at",
    "kind": "needs docker",
    "kubectl": "needs a cluster; what it is told of is in deployments/, as is checked here",
    "make": "installs, builds or tests; its targets are looked up",
    "man": "need not be installed; the pages are made in tests/tools/test_man.py",
    "outrelay-cli audit tail": "goes on until Ctrl-C; tests/cli/test_audit.py",
    "outrelay-cli fleet watch": "goes on until q; tests/cli/watch",
    "pipx": "installs",
    "psql": "needs PostgreSQL",
    "python3 -m venv": "installs",
    "sqlite3": "need not be installed; Python's does the same there",
    "sudo deployments/image/install.sh": "installs; tests/deployments does it",
    "sudo systemctl": "needs systemd as the first process; units are in deployments/systemd",
    "systemctl": "needs systemd as the first process",
}
"""Beginnings of commands that no test types, and why."""

YES = "y\n" * 9
"""What is answered where a command asks before it does something."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where pages are tried out: a short path, for sockets."""
    with tempfile.TemporaryDirectory() as name:
        furnish(Path(name))
        yield Path(name)


def units() -> list[tuple[Path, ...]]:
    """What is run: a page, or several together."""
    alone = [
        (page,)
        for page in PAGES
        if page not in TOGETHER and any(block.way is not Way.PARSE for block in blocks(page))
    ]
    return [*alone, TOGETHER]


def named(pages: tuple[Path, ...]) -> str:
    return "+".join(str(page.relative_to(ROOT)) for page in pages)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("pages", units(), ids=named)
def test_what_a_page_tells_to_type_works(pages: tuple[Path, ...], folder: Path) -> None:
    script = script_of(pages, folder)
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(YES, timeout=2 * PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
    assert process.returncode == 0, f"{script}\n{output}"


OURS = re.compile(rf"(?:^|(?<=-- )|(?<=/bin/))(?:{'|'.join(PROGRAMS)}) .*")
"""A command of ours, also one that somebody else's is to run elsewhere."""


def parsed_commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in blocks(page):
            for command in block.commands:
                if found := OURS.search(command):
                    yield named((page,)), found[0]


def unrun_commands() -> Iterator[str]:
    for page in PAGES:
        for block in blocks(page):
            yield from block.commands if block.way is Way.PARSE else ()


def test_what_is_not_run_is_what_cannot_run_here() -> None:
    unrun = set(unrun_commands())
    assert not [each for each in unrun if not each.startswith(tuple(ELSEWHERE))]
    # Everything else that looks like a command would have been taken for a drawing.
    drawn = {line for page in PAGES for block in indented(page) for line in block.commands}
    assert not [each for each in drawn if OURS.match(each) or each.startswith(UNDRAWN)]
    used = {name for name in ELSEWHERE if any(each.startswith(name) for each in unrun | drawn)}
    assert used == ELSEWHERE.keys()


UNDRAWN = tuple(ELSEWHERE.keys() - {"make"})
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
OBJECTS = {
    (document["kind"].lower(), document["metadata"]["name"])
    for file in (ROOT / "deployments").glob("[0-9]*.yaml")
    for document in yaml.safe_load_all(file.read_text())
}


@pytest.mark.parametrize("command", sorted(set(unrun_commands())))
def test_what_is_not_run_speaks_of_what_there_is(command: str) -> None:
    """Files, objects of a cluster, units and targets of make."""
    for path in re.findall(r"\bdeployments/[\w./-]+", command):
        assert (ROOT / path).exists()
    for kind, name in re.findall(r"\b(deployment|statefulset|service)/([\w-]+)", command):
        assert (kind, name) in OBJECTS
    for unit in re.findall(r"systemctl .*\b(outrelay-\w+)$", command):
        assert list((ROOT / "deployments" / "systemd").rglob(f"{unit}*.service"))
    if target := re.match(r"make ([\w-]+)", command):
        assert target[1] in TARGETS


@pytest.mark.parametrize(("page", "command"), sorted(set(parsed_commands())))
def test_what_pages_show_is_understood(page: str, command: str) -> None:
    """Every flag exists, and every value is one that it takes."""
    name, *arguments = words(command.partition(" | ")[0].partition(" > ")[0])
    understand(PROGRAMS[name], [each for each in arguments if each != "..."], name)


def understand(command: click.Command, arguments: list[str], name: str) -> None:
    """Parse as click does, but miss nothing.

    Raises:
        click.UsageError: It is not understood.
    """
    context = click.Context(command, info_name=name, **command.context_settings)
    if isinstance(command, click.Group):
        context.allow_interspersed_args = False
    given, rest, _ = command.make_parser(context).parse_args(list(arguments))
    for param in command.params:
        value = given.get(param.name or "")
        if isinstance(value, str | list) and not param.is_eager:
            param.type_cast_value(context, value)
    if isinstance(command, click.Group) and rest:
        inner = command.get_command(context, rest[0])
        if inner is None:
            raise click.UsageError(f"{name} has no command {rest[0]}")
        understand(inner, rest[1:], f"{name} {rest[0]}")


def test_a_flag_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(click.UsageError):
        understand(PROGRAMS["outrelay-cli"], ["policy", "add", "--nobody", "x"], "outrelay-cli")
    with pytest.raises(click.UsageError):
        understand(PROGRAMS["outrelay-relay"], ["--drain", "soon"], "outrelay-relay")

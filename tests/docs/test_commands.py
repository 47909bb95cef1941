"""What pages tell people to type works: it is typed here.

The commands of a page are one script, run in an empty folder by real processes. Services go to
the background until they are ready; addresses of other machines become loopback, and ports
free ones. See ``tests.docs.blocks`` for how pages say what is run.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import click
import pytest

from tests.docs.blocks import PAGES, ROOT, Block, Way, blocks, words
from tests.support.patience import PATIENCE
from tests.support.ports import unused_port

SCRIPTS = distribution("outrelay").entry_points.select(group="console_scripts")
PROGRAMS: dict[str, click.Command] = {each.name: each.load() for each in SCRIPTS}
SERVICES = ("outrelay-controller", "outrelay-relay", "outrelay-agent")
ENDS = {"doctor", "status", "enroll", "--check", "--help", "--version"}
"""With one of these words a service does not go on."""

HOSTS = re.compile(r"(?:RELAY-ADDRESS|0\.0\.0\.0|127\.0\.0\.1|(?:[\w-]+\.)*example)(?=:\d)")
PORT = re.compile(r"(?<=127\.0\.0\.1:)\d+|(?<=http\.server )\d+")
FOLDERS = re.compile(r"/(?:var/lib|run|etc)/outrelay")

PRELUDE = """\
set -euo pipefail
trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT
started=0
start() {
  local log=service-$((++started)).log
  : > $log
  "$@" >> $log 2>&1 &
  until grep -qE 'INFO +ready|Serving HTTP' $log; do
    kill -0 $! 2> /dev/null || { echo "$* ended:"; cat $log; exit 1; }
    sleep 0.05
  done
}
"""

CURL = """\
#!{python}
import sys, time, urllib.request
for left in range({tries}, -1, -1):
    try:
        print(urllib.request.urlopen(sys.argv[-1], timeout=30).status)
        break
    except OSError as error:
        if not left:
            sys.exit(f"curl: {{error}}")
        time.sleep(0.1)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where a page is tried out: a short path, for sockets."""
    with tempfile.TemporaryDirectory() as name:
        bin_folder = Path(name, "bin")
        bin_folder.mkdir()
        for tool, tries in (("curl", 100), ("curl-once", 0)):
            script = bin_folder / tool
            script.write_text(CURL.format(python=sys.executable, tries=tries))
            script.chmod(0o755)
        yield Path(name)


def pages_that_run() -> list[Path]:
    return [page for page in PAGES if any(block.way is not Way.PARSE for block in blocks(page))]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("page", pages_that_run(), ids=named)
def test_what_a_page_tells_to_type_works(page: Path, folder: Path) -> None:
    script = PRELUDE + script_of(page, folder)
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=2 * PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
    assert process.returncode == 0, f"{script}\n{output}"


def script_of(page: Path, folder: Path) -> str:
    """The commands of a page, for this machine."""
    text = "".join(map(shell, blocks(page)))
    text = FOLDERS.sub(f"{folder}/var", HOSTS.sub("127.0.0.1", text))
    return PORT.sub(Ports(), text)


class Ports(dict[str, str]):
    """A free port for each that pages name."""

    def __missing__(self, port: str) -> str:
        self[port] = str(unused_port())
        return self[port]

    def __call__(self, found: re.Match[str]) -> str:
        return self[found[0]]


def shell(block: Block) -> str:
    """A block as part of the script."""
    match block.way:
        case Way.RUN:
            return re.sub(r"^(?=\S)", _starter, "\n" + block.text + "\n", flags=re.MULTILINE)
        case Way.FAIL:
            return "".join(
                f"if {_once(each)}; then echo {shlex.quote(each)} works; exit 1; fi\n"
                for each in block.commands
            )
        case Way.PARSE:
            return ""


def _starter(found: re.Match[str]) -> str:
    line = found.string[found.start() :].replace("\\\n", " ").partition("\n")[0]
    return "start " if goes_on(words(line)) else ""


def _once(command: str) -> str:
    return re.sub(r"^curl\b", "curl-once", command)


def goes_on(command: list[str]) -> bool:
    """Whether a command runs until it is stopped."""
    if command[:3] == ["python3", "-m", "http.server"]:
        return True
    return bool(command) and command[0] in SERVICES and not ENDS.intersection(command)


def environment(folder: Path) -> dict[str, str]:
    """The variables of a shell where programs find each other without being told."""
    controller, relay = (f"127.0.0.1:{unused_port()}" for _ in range(2))
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("OUTRELAY_")}
    scripts = Path(sys.executable).parent
    return inherited | {
        "PATH": f"{folder / 'bin'}:{scripts}:{os.environ['PATH']}",
        "XDG_CONFIG_HOME": str(folder / "config"),
        "PYTHONUNBUFFERED": "1",
        "OUTRELAY_CONTROLLER_LISTEN": controller,
        "OUTRELAY_RELAY_CONTROLLER": controller,
        "OUTRELAY_RELAY_CONTROLLERS": controller,
        "OUTRELAY_CLI_CONTROLLER": controller,
        "OUTRELAY_RELAY_LISTEN": relay,
        "OUTRELAY_AGENT_RELAY": relay,
        "OUTRELAY_CONTROLLER_DEBUG_LISTEN": "127.0.0.1:0",
        "OUTRELAY_RELAY_DEBUG_LISTEN": "127.0.0.1:0",
        "OUTRELAY_AGENT_DEBUG_LISTEN": "127.0.0.1:0",
    }


def parsed_commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in blocks(page):
            for command in block.commands:
                if words(command)[:1] and words(command)[0] in PROGRAMS:
                    yield named(page), command


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

"""Every line of docs/reference/errors.md is what a program says when somebody makes that mistake.

The mistakes are in ``tests.docs.mistakes``. What the sources raise has a line on the page, too:
``tests.docs.raised`` reads them.
"""

from __future__ import annotations

import fcntl
import logging
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import grpc.aio
import pytest
import structlog
from click.testing import CliRunner

from outrelay.agent.command import main as agent
from outrelay.cli.command import main as cli
from outrelay.controller.command import main as controller
from outrelay.controller.store.session import translated
from outrelay.lib.control.v1.policy_pb2 import ReplacePoliciesRequest
from outrelay.lib.errors import StoreError
from outrelay.relay.audit.files import LOCK
from outrelay.relay.command import main as relay
from outrelay.tools.correlate.command import main as correlate
from outrelay.tools.dev_pki import main as dev_pki
from tests.cli.running import cli_of
from tests.controller.live import TIMEOUT, LiveController, live_controller, relay_beat
from tests.docs.mistakes import CLI, IN_THE_STORE, RACED, SERVICES, TEXTS, cases
from tests.docs.place import CONDITIONS, Place, place_of
from tests.docs.raised import Raised, raised
from tests.support.pki import TestPki

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"
ROW = re.compile(r"^\| (`{1,2})(?P<message>.+?)\1 \| (?P<code>\d+) \|", re.MULTILINE)
STANDS_FOR_ANYTHING = re.compile(
    r"\b(FLAG|FILE|ADDRESS|NAMES?|URI|VALUE|COMMAND|VARIABLE|KEYS?|KIND|WHY|WHEN|N|ID|RANGE|CHOICES"
    r"|METHOD)\b"
)
PROMPT = "[y/N]: "
LOG_LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{3} ")

PROGRAMS: dict[str, click.Command] = {
    "relay": relay,
    "agent": agent,
    "controller": controller,
    "dev-pki": dev_pki,
    "correlate": correlate,
    "cli": cli,
}

ELSEWHERE = {
    "controller/calls.py": "what only other implementations send",
    "controller/feed.py": "relays log it",
    "controller/fleet/": "relays log it",
    "controller/registry/relays.py": "relays log it",
    "controller/registry/service.py": "relays log it",
    "lib/identity/issue.py": "dev-pki has checked before",
    "lib/identity/uri.py": "said behind the flag or the file that a URI is from",
    "lib/identity/verify.py": "why a peer is refused: docs/troubleshooting.md",
    "lib/renewal.py": "logged by who goes on with the old certificate",
    "relay/controller.py": "logged as the reason why the controller is away",
    "relay/directory_watch.py": "decides by which calls a plain controller is asked",
    "relay/policy/watch.py": "decides by which calls a plain controller is asked",
    "tools/bench/": "for who builds OutRelay",
}
"""Sources whose errors nobody meets at a command line, and where they are met."""
UNMET = {
    "--relay: names no relay; write it like relay.example:7443": "an empty flag is not given",
    "level: must be one of …": "outrelay-cli has looked at it",
    "limit: must not be negative; 0 means no limit": "outrelay-cli has looked at it",
    "limit: must be at most …": "outrelay-cli has looked at it",
    "after_event_id: is for those who follow": "outrelay-cli gives it when it does",
    "the event to go on after is not in the trail any more": "outrelay-cli begins anew",
    "event.decision: … is no decision": "relays log it",
    "the certificate of … has expired": "during a call; TLS says it to who calls",
    "… may see …, not all tenants": "outrelay-cli asks for an operator's own",
    "expires_unix_ms: must not be negative; 0 means never": "outrelay-cli has none to give",
    "rules[…]: id: … is that of another rule too": "outrelay-cli gives no ids",
    "rules[…]: …": "outrelay-cli has looked at it",
    "id: … has a rule … already": "outrelay-cli gives no ids",
    "tenant: is not …": "outrelay-cli names one",
    "relay … did not answer; it may be an older version": "there are none",
    "…: cannot listen on …; the address is in use or is not this machine's": "it was tried before",
    "…: has extensions that cannot be read: …": "no CA issues them",
    "…: holds a key that cannot be read: …": "no CA issues them",
    "is not a directory of ours alone; remove it": "somebody wants to be the controller",
    "cannot be made: …": "it was tried before",
}
"""What nobody meets, and why."""


def rows() -> dict[str, int]:
    """The messages of the page, with their exit codes."""
    return {row["message"]: int(row["code"]) for row in ROW.finditer(PAGE.read_text())}


def matches(message: str, line: str) -> bool:
    """Whether a line is this message with something in the place of its capitals."""
    parts = STANDS_FOR_ANYTHING.split(message)[::2]  # what is between the capitals
    return re.fullmatch(".+?".join(map(re.escape, parts)), line) is not None


@pytest.fixture(scope="module")
def pki() -> TestPki:
    return TestPki()


@pytest.fixture(scope="module")
def place(pki: TestPki) -> Iterator[Place]:
    with place_of(pki) as found:
        yield found


@pytest.fixture
def logs_restored() -> Iterator[None]:
    """What programs do to logging in this process is undone."""
    handlers, level, config = logging.root.handlers[:], logging.root.level, structlog.get_config()
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.configure(**config)


@pytest.mark.usefixtures("logs_restored")
@pytest.mark.parametrize(("message", "command"), cases(SERVICES))
def test_services(message: str, command: str, place: Place) -> None:
    words = shlex.split(command.format_map(place))
    with ExitStack() as stack:
        if words[0] in CONDITIONS:
            stack.enter_context(CONDITIONS[words.pop(0)]())
        if words[-1].endswith(("used.db", "spool")):
            stack.enter_context(used(Path(words[-1])))
        environment = dict([words.pop(0).split("=", 1)]) if "=" in words[0] else {}
        program = words.pop(0)
        done = CliRunner().invoke(PROGRAMS[program], words, env=environment)
    lines = [line for line in done.stderr.splitlines() if not LOG_LINE.match(line)]
    assert len(lines) == 1, done.stderr
    name, _, said = lines[0].partition(": ")
    assert name == (PROGRAMS[program].name or "")
    assert matches(message, said), said
    assert done.exit_code == rows()[message]
    assert done.stdout == ""


@contextmanager
def used(path: Path) -> Iterator[None]:
    """Another controller has the file, or another relay the folder."""
    if path.suffix != ".db":
        path.mkdir()
        path /= LOCK
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize(("message", "command"), cases(CLI))
async def test_the_cli(
    message: str, command: str, place: Place, pki: TestPki, tmp_path: Path
) -> None:
    async with live_controller(tmp_path, pki) as running:
        words = shlex.split(command.format_map({**place, **running.targets}))
        tenant = "" if words[0] == "anonymous" else "system" if words[0] == "system" else "acme"
        if tenant != "acme":
            del words[0]
        if "r1" in words and tenant == "system":
            await register_relay(running)
        user = cli_of(tmp_path, running, pki.operator(tenant, "alice") if tenant else None)
        if "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            user.environment[name] = value
        done = await user.run(*words, stdin=TEXTS["rules.yaml"] if words[-1] == "-" else "")
    (line,) = (line for line in done.stderr.splitlines() if not line.endswith(PROMPT))
    name, _, said = line.partition(": ")
    assert name == "outrelay-cli"
    assert matches(message, said), said
    assert done.exit_code == rows()[message]


async def register_relay(running: LiveController) -> None:
    """A relay that is known to the controller, and not connected with it."""
    async with running.as_relay("r1") as services:
        await services.registry.UpsertRelay(relay_beat("r1"), timeout=TIMEOUT)


def test_a_full_database() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (x)")
    connection.execute("PRAGMA max_page_count = 2")
    with pytest.raises(StoreError) as raised, translated("x.db"):
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    connection.close()
    assert matches(IN_THE_STORE, str(raised.value))


async def test_rules_that_changed_meanwhile(pki: TestPki, tmp_path: Path) -> None:
    request = ReplacePoliciesRequest(tenant="acme", expected_revision=7)
    async with live_controller(tmp_path, pki) as running, running.as_operator() as services:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await services.policy.ReplacePolicies(request, timeout=TIMEOUT)
    assert matches(RACED, f"controller ADDRESS: {refused.value.details()}")


def test_every_line_of_the_page_has_a_case() -> None:
    tried = {message for message, _ in cases(SERVICES) + cases(CLI)} | {IN_THE_STORE, RACED}
    assert tried == rows().keys()


def told_to_users() -> list[Raised]:
    return [each for each in raised() if not each.where.startswith(tuple(ELSEWHERE))]


@pytest.mark.parametrize("found", told_to_users(), ids=str)
def test_whatever_the_sources_raise_has_a_line_on_the_page(found: Raised) -> None:
    if found.said not in UNMET:
        assert [row for row in rows() if found.may_be(row)], found.said


def test_what_is_raised_is_found_in_the_sources(tmp_path: Path) -> None:
    source = tmp_path / "some.py"
    source.write_text(
        "def f(path, error):\n"
        "    fault = f'is odd: {error}'\n"
        "    raise ConfigError(str(path), fault, 'mend it')\n"
    )
    (found,) = raised(tmp_path)
    assert found.may_be("FILE: is odd: WHY; mend it")
    assert not found.may_be("FILE: is odd; mend it")

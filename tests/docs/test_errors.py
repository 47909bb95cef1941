"""Every line of docs/reference/errors.md is what a program says when somebody makes that mistake.

A case is the message as the page has it, and a command line that causes it. Words in capitals
stand for anything. ``{relay}`` and the like are the flags with a role's certificate, other words
in braces what the ``Place`` holds. A case may begin with ``NAME=VALUE`` for the environment, and
with ``unprivileged`` or ``small-files``.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import resource
import shlex
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import click
import pytest
import structlog
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from outrelay.agent.command import main as agent
from outrelay.cli.command import main as cli
from outrelay.controller.command import main as controller
from outrelay.controller.store.session import translated
from outrelay.lib.errors import StoreError
from outrelay.lib.identity.uri import Role
from outrelay.lib.identity.verify import Usage
from outrelay.relay.command import main as relay
from outrelay.tools.correlate.command import main as correlate
from outrelay.tools.dev_pki import main as dev_pki
from tests.cli.running import cli_of
from tests.controller.live import live_controller
from tests.support.pki import DAY, Hostile, TestPki, save, save_trust

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"
ROW = re.compile(r"^\| (`{1,2})(?P<message>.+?)\1 \| (?P<code>\d+) \|", re.MULTILINE)
STANDS_FOR_ANYTHING = re.compile(
    r"\b(FLAG|FILE|ADDRESS|NAMES?|URI|VALUE|COMMAND|VARIABLE|KEYS?|KIND|WHY|WHEN|N|ID|RANGE|CHOICES"
    r"|METHOD)\b"
)
LOG_LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{3} ")
NOBODY = 65534

PROGRAMS: dict[str, click.Command] = {
    "relay": relay,
    "agent": agent,
    "controller": controller,
    "dev-pki": dev_pki,
    "correlate": correlate,
    "cli": cli,
}

SERVICES = """
no such option 'NAME'; see: COMMAND --help
    relay {relay} --nope
no such option 'NAME'; did you mean one of: CHOICES?
    relay {relay} --alow-all
no such command 'NAME'; see: COMMAND --help
    cli launch
got unexpected extra argument (NAME); see: COMMAND --help
    relay {relay} extra
FLAG: is missing; see: COMMAND --help
    cli policy add --caller x
FILE...: is missing; see: COMMAND --help
    correlate
FLAG: is missing; give the flag, VARIABLE, or 'KEY' in the --config file
    agent
FLAG: 'VALUE' is not an address; write it like 127.0.0.1:7443 or [::1]:7443
    relay {relay} --listen nowhere
FLAG: 'VALUE' is not a duration; write it like 250ms, 10s, 5m, 24h or 90d
    agent {agent} --drain soon
FLAG: 'VALUE' is not a size; write it like 64KiB, 16MiB or 65536
    agent {agent} --ring-max huge
FLAG: 'VALUE' is not a valid number; see: COMMAND --help
    agent {agent} --max-streams many
FLAG: N is not in the range RANGE; see: COMMAND --help
    agent {agent} --max-streams 0
FLAG: 'VALUE' is not one of CHOICES; see: COMMAND --help
    agent {agent} --log-level loud
--expose: 'VALUE' names no target; write it like db=127.0.0.1:5432
    agent {agent} --expose db
--consume: 'VALUE' has no address to listen on; write it like db@127.0.0.1:5432
    agent {agent} --consume db
--consume: 'VALUE' cannot name a service; use 1 to 255 printable ASCII characters without slash \
and space
    agent {agent} --consume 'd b@127.0.0.1:1'
--expose: NAME is exposed twice; an agent has one target for a service
    agent {agent} --expose db=127.0.0.1:1 --expose db=127.0.0.1:2
--expose-service and --expose-target: one is missing; give both, or --expose NAME=HOST:PORT
    agent {agent} --expose-service db
--uri URI: is not the identity in FILE: URI
    agent {agent} --uri outrelay://acme/agent/00000000-0000-4000-8000-000000000000
--controller: 'VALUE' is not an address; write it like 127.0.0.1:7443 or [::1]:7443; or unix:PATH
    relay {relay} --controller nowhere
--audit-spool-size: is less than 64KiB
    relay {relay} --audit-spool-size 1KiB
--ring-max: is less than 64KiB
    agent {agent} --ring-max 1KiB
--dead-after: is less than 2s; the relay is asked once a second
    agent {agent} --dead-after 1s
FILE: cannot be read: No such file or directory; check the path
    relay {relay} --config {here}/none.toml
FILE: is not TOML: WHY
    relay {relay} --config {here}/broken.toml
FILE: unknown keys: KEY; keys are named like flags, see --help
    relay {relay} --config {here}/unknown.toml
FILE: KEY: must be KIND, not VALUE
    relay {relay} --config {here}/number.toml
FILE: KEY: 'VALUE' is not a duration; write it like 250ms, 10s, 5m, 24h or 90d
    relay {relay} --config {here}/soon.toml
VARIABLE: 'VALUE' is not a duration; write it like 250ms, 10s, 5m, 24h or 90d
    OUTRELAY_RELAY_DRAIN=soon relay {relay}

FILE: cannot be read: Permission denied; let this user have access to it
    unprivileged relay --cert {here}/relay.pem --key {here}/locked.key --ca {ca}
FILE: holds no PEM certificate; give a file with -----BEGIN CERTIFICATE-----
    relay --cert {here}/relay.key --key {here}/relay.key --ca {ca}
FILE: holds no PEM private key; give a file with -----BEGIN PRIVATE KEY-----
    relay --cert {here}/relay.pem --key {here}/relay.pem --ca {ca}
FILE: is encrypted; store it without a pass phrase
    relay --cert {here}/relay.pem --key {here}/encrypted.key --ca {ca}
FILE: is not the key of FILE; give the two files of one identity
    relay --cert {here}/relay.pem --key {here}/agent.key --ca {ca}
FILE: holds a certificate that is not a CA's; list only CA certificates in it
    relay --cert {here}/relay.pem --key {here}/relay.key --ca {here}/relay.pem
FILE: holds no outrelay:// URI SAN
    relay --cert {here}/nobody.pem --key {here}/nobody.key --ca {ca}
--cert FILE: is the certificate of URI, not a relay's; give the relay's own
    relay {agent}
--cert FILE: is the certificate of URI, not an agent's; give the agent's own
    agent {relay}
FILE: is of URI, expected the role controller; clients would refuse it
    controller {relay}
--cert FILE: expired at WHEN; give a certificate that is valid now
    relay --cert {here}/expired.pem --key {here}/expired.key --ca {ca}
--cert FILE: is not valid before WHEN; give a certificate that is valid now
    relay --cert {here}/early.pem --key {here}/early.key --ca {ca}
FILE: expired at WHEN; clients would refuse it
    controller --cert {here}/late.pem --key {here}/late.key --ca {ca}
FILE: does not lead to a CA we trust (WHY); clients would refuse it
    controller --cert {here}/controller.pem --key {here}/controller.key --ca {here}/other.pem
FILE: is an Ed25519 key, which gRPC's TLS does not know; use one of EC P-256
    controller --cert {here}/edwards.pem --key {here}/edwards.key --ca {ca}
--cert, --key, --ca: missing, and needed for --listen ADDRESS; give all three, or --listen '' to \
serve no TLS
    controller

ADDRESS (UDP): cannot be bound: Address already in use; stop what uses the address, or choose \
another one
    relay {relay} --listen {udp}
ADDRESS (TCP): cannot be bound: Address already in use; stop what uses the address, or choose \
another one
    relay {relay} --listen 127.0.0.1:0 --listen-tcp {tcp}
ADDRESS (UDP): cannot be bound: Cannot assign requested address; give an address of this machine
    relay {relay} --listen 192.0.2.1:7443
--listen: 'NAME' has no address: WHY; check the name
    relay {relay} --listen host.invalid:7443
--listen: cannot listen on ADDRESS: Address already in use; stop what uses the address, or choose \
another one
    controller {controller} --db :memory: --listen {tcp}
--consume NAME@ADDRESS: cannot listen on ADDRESS: Address already in use; stop what uses the \
address, or choose another one
    agent {agent} --consume db@{tcp}
--listen: is empty and there is no other listener; give one
    controller --listen ''
--listen-plaintext: ADDRESS is not a loopback address, and whoever reaches it rules every tenant; \
give a loopback address, or --trust-plaintext-network if you mean it
    controller {controller} --listen-plaintext 0.0.0.0:0
--admin-socket: FILE is in a directory that does not exist; make it first
    controller --listen '' --db :memory: --admin-socket {here}/none/admin.sock
--admin-socket: FILE exists and is no socket; remove it or give another path
    controller --listen '' --db :memory: --admin-socket {ca}
--admin-socket: FILE is longer than N bytes
    controller --listen '' --db :memory: --admin-socket {here}/{long}

--db: postgresql is not supported; give a file
    controller {controller} --db postgresql://host/name
--db: FILE is a directory; give a file in it
    controller {controller} --db {here}
--db: FILE is in a directory that does not exist; make it first
    controller {controller} --db {here}/none/x.db
FILE: file is not a database; restore a backup, or give another file to --db
    controller {controller} --db {here}/junk.db
FILE: is another program's database; give a file of its own to --db
    controller {controller} --db {here}/foreign.db
FILE: is used by another controller; stop it, or give --db
    controller {controller} --db {here}/used.db
FILE: has schema version N, this controller knows N; upgrade it
    controller {controller} --db {here}/newer.db
FILE: Permission denied; let this user have access to it
    unprivileged controller --listen '' --listen-plaintext 127.0.0.1:0 --db {here}/locked.db
FILE: attempt to write a readonly database; let this user write to the file and its directory
    unprivileged controller --listen '' --listen-plaintext 127.0.0.1:0 --db {here}/locked/x.db
FILE: disk I/O error; look at the disk, and at the space on it
    small-files controller {controller} --db {here}/small.db
--audit-spool: FILE cannot be used: WHY; check the path
    relay {relay} --listen 127.0.0.1:0 --audit-spool /proc/none

FILE: holds NAME already; choose another --out, or replace the whole set with --force
    dev-pki --out {here}
--tenant: 'VALUE' is not a name; use a-z, 0-9 and -, at most 63 of them
    dev-pki --tenant 'Not A Name'
"""

CLI = """
--cert, --key, --ca missing: give --cert, --key and --ca, or a profile with them, or \
--controller unix:PATH for an admin socket, or --plaintext
    anonymous policy list
--tenant is missing: say whose policy or audit it is about
    policy list --controller {admin}
controller ADDRESS: nobody listens there (connection refused); is it running?
    policy list --controller {nobody}
controller ADDRESS: its name cannot be resolved
    policy list --controller host.invalid:7444
controller FILE: the socket cannot be opened (no such file or directory)
    policy list --tenant acme --controller unix:/none/admin.sock
controller ADDRESS: does not take plaintext at this address; give a certificate, key and CA
    policy list --plaintext --tenant acme
controller ADDRESS: does not speak TLS at this address; use its TLS address, or plaintext
    policy list --controller {plaintext}
controller ADDRESS: its certificate does not lead to a CA we trust (WHY); check the CA given
    policy list --ca {here}/other.pem
controller ADDRESS: refused our certificate, which does not lead to a CA we trust (WHY)
    policy list --cert {here}/stranger.pem --key {here}/stranger.key
controller ADDRESS: refused our certificate, which expired at WHEN
    policy list --cert {here}/gone.pem --key {here}/gone.key
controller ADDRESS: URI has the role agent; METHOD needs a certificate of the role operator or relay
    policy list --tenant acme --cert {here}/agent.pem --key {here}/agent.key
controller ADDRESS: URI is an operator of NAME, not of NAME; use a certificate of NAME
    policy list --tenant other
controller ADDRESS: NAME has no policy rule ID; see: outrelay-cli policy list
    policy remove --id none
controller ADDRESS: no relay carries a stream ID of NAME
    stream kill 0123456789abcdef
controller ADDRESS: stream_id: must be 16 hex digits
    stream kill none
controller ADDRESS: target_pattern: must be given
    policy add --caller '*' --target '' --decision allow
controller ADDRESS: caller: 'VALUE' is not an identity: it must start with outrelay://
    policy explain --caller nobody --target db
controller: 'VALUE' is not an address; write it like 127.0.0.1:7443 or [::1]:7443; or unix:PATH \
for an admin socket
    policy list --controller nowhere
profile NAME: does not exist; there are: NAMES
    policy list --profile none
there is no profile NAME; see: outrelay-cli profile list
    profile use none
--file: File 'FILE' does not exist; see: COMMAND --help
    policy apply -f {here}/none.yaml
FILE:N: is no YAML: WHY
    policy apply -f {here}/broken.yaml
FILE: is empty; write `rules: []` to remove every rule
    policy apply -f {here}/empty.yaml
FILE:N: unknown key 'KEY'; known are KEYS
    policy apply -f {here}/unknown.yaml
FILE:N: KEY is missing
    policy apply -f {here}/half.yaml
FILE:N: decision: 'VALUE' is none of allow, deny
    policy apply -f {here}/maybe.yaml
FILE: has the rules of NAME, not of NAME; give --tenant NAME if you mean it
    policy apply -f {here}/beta.yaml --tenant acme
--yes is missing: the rules come from standard input, so nobody can be asked
    policy apply -f -
"""

IN_THE_STORE = "FILE: database or disk is full; free some space"

TEXTS = {
    "broken.toml": "listen =",
    "unknown.toml": 'lisen = "127.0.0.1:1"',
    "number.toml": "drain = 5",
    "soon.toml": 'drain = "soon"',
    "junk.db": "no database, and long enough to be looked at" * 100,
    "broken.yaml": "rules: [",
    "empty.yaml": "",
    "unknown.yaml": "rule: []",
    "half.yaml": "rules:\n- caller: x\n  target: y\n",
    "maybe.yaml": "rules:\n- caller: x\n  target: y\n  decision: maybe\n",
    "beta.yaml": "tenant: beta\nrules: []\n",
    "rules.yaml": "rules:\n- caller: x\n  target: y\n  decision: allow\n",
}


def cases(text: str) -> list[tuple[str, str]]:
    """Message and command line of each case."""
    lines = [line for line in text.splitlines() if line]
    return [(lines[i], lines[i + 1].strip()) for i in range(0, len(lines), 2)]


def rows() -> dict[str, int]:
    """The messages of the page, with their exit codes."""
    return {row["message"]: int(row["code"]) for row in ROW.finditer(PAGE.read_text())}


def matches(message: str, line: str) -> bool:
    """Whether a line is this message with something in the place of its capitals."""
    parts = STANDS_FOR_ANYTHING.split(message)[::2]  # what is between the capitals
    return re.fullmatch(".+?".join(map(re.escape, parts)), line) is not None


Place = dict[str, str]


@pytest.fixture(scope="module")
def pki() -> TestPki:
    return TestPki()


@pytest.fixture(scope="module")
def place(pki: TestPki) -> Iterator[Place]:
    """A folder of everything that can be wrong, which everybody may enter."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        here = Path(name)
        here.chmod(0o755)
        write_files(here, pki)
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        with socket.create_server(("127.0.0.1", 0)) as gone:
            nobody = address_of(gone)
        yield {
            **{role: flags_of(here, role) for role in ("relay", "agent", "controller")},
            "here": name,
            "ca": f"{name}/ca.pem",
            "long": "x" * 120,
            "udp": address_of(udp),
            "tcp": address_of(tcp),
            "nobody": nobody,
        }
        (here / "locked").chmod(0o755)


def write_files(here: Path, pki: TestPki) -> None:
    holders = {
        "relay": pki.relay(),
        "agent": pki.agent(),
        "controller": pki.controller(),
        "stranger": TestPki().operator(),
        "nobody": pki.hostile(Hostile.NO_URI),
        "expired": pki.hostile(Hostile.EXPIRED, role=Role.RELAY, usage=Usage.SERVER),
        "gone": pki.hostile(Hostile.EXPIRED, role=Role.OPERATOR),
        "early": pki.hostile(Hostile.NOT_YET_VALID, role=Role.RELAY, usage=Usage.SERVER),
        "late": pki.forge(
            pki.controller().identity,
            dns_names=("controller.outrelay.internal",),
            not_before=pki.now - 2 * DAY,
            not_after=pki.now - timedelta(seconds=1),
        ),
        "edwards": pki.forge(
            pki.controller().identity,
            dns_names=("controller.outrelay.internal",),
            private_key=ed25519.Ed25519PrivateKey.generate(),
        ),
    }
    for stem, credentials in holders.items():
        save(credentials, here / stem)
    save_trust(pki.trust, here / "ca.pem")
    save_trust(TestPki().trust, here / "other.pem")
    (here / "encrypted.key").write_bytes(
        holders["relay"].private_key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
    )
    for name, text in TEXTS.items():
        (here / name).write_text(text)
    write_databases(here)
    (here / "locked.key").write_bytes(holders["relay"].private_key_pem)
    (here / "locked.key").chmod(0)


def write_databases(here: Path) -> None:
    (here / "locked").mkdir()
    for name, statement in (
        ("foreign.db", "CREATE TABLE theirs (x)"),
        ("newer.db", "PRAGMA user_version = 999"),
        ("locked.db", "VACUUM"),
        ("locked/x.db", "VACUUM"),
    ):
        connection = sqlite3.connect(here / name)
        connection.execute(statement)
        connection.close()
    (here / "locked.db").chmod(0o444)
    (here / "locked" / "x.db").chmod(0o666)
    (here / "locked").chmod(0o555)


def flags_of(here: Path, role: str) -> str:
    return f"--cert {here}/{role}.pem --key {here}/{role}.key --ca {here}/ca.pem"


def address_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()
    return f"{host}:{port}"


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be nobody for a while, where we are root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@contextmanager
def small_files() -> Iterator[None]:
    """Let no file grow beyond 8 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


CONDITIONS = {"unprivileged": unprivileged, "small-files": small_files}


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
        if "used.db" in command:
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
    """Another controller has the file."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize(("message", "command"), cases(CLI))
async def test_the_cli(
    message: str, command: str, place: Place, pki: TestPki, tmp_path: Path
) -> None:
    async with live_controller(tmp_path, pki) as running:
        words = shlex.split(command.format_map({**place, **running.targets}))
        who = None if words[0] == "anonymous" else pki.operator("acme", "alice")
        user = cli_of(tmp_path, running, who)
        if who is None:
            del words[0]
        done = await user.run(*words, stdin=TEXTS["rules.yaml"])
    name, _, said = done.stderr.removesuffix("\n").partition(": ")
    assert name == "outrelay-cli"
    assert matches(message, said), said
    assert done.exit_code == rows()[message]


def test_a_full_database() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (x)")
    connection.execute("PRAGMA max_page_count = 2")
    with pytest.raises(StoreError) as raised, translated("x.db"):
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    connection.close()
    assert matches(IN_THE_STORE, str(raised.value))


def test_every_line_of_the_page_has_a_case() -> None:
    tried = {message for message, _ in cases(SERVICES) + cases(CLI)} | {IN_THE_STORE}
    assert tried == rows().keys()

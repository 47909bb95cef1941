"""Where the values of flags come from, which wins, and what a person reads on a mistake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from outrelay import __version__
from outrelay.lib.errors import ConfigError
from outrelay.lib.options import (
    ADDRESS,
    DURATION,
    OPTIONAL_ADDRESS,
    SIZE,
    Address,
    command,
    credential_flags,
    flag,
)

Invoke = Callable[..., Result]
Write = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the program of these tests is started with."""

    listen: Address
    listen_tcp: Address | None
    relay: tuple[Address, ...]
    drain: float
    ring: int
    streams: int
    allow_all: bool
    cert: Path | None


async def run(options: Options, stop: asyncio.Event) -> None:
    print(options)
    if options.streams == 13:
        raise ConfigError("--streams", "brings bad luck")


def check(options: Options) -> list[str]:
    return ["--ring: is large", "--drain: is long"] if options.ring > 2**20 else []


@command("relay", run=run, check=check, examples="outrelay-relay --listen 0.0.0.0:7443")
@flag("--listen", type=ADDRESS, default="127.0.0.1:7443", help="Where agents dial in.")
@flag("--listen-tcp", type=OPTIONAL_ADDRESS, default="127.0.0.1:443", help="The same for TCP.")
@flag("--relay", type=ADDRESS, multiple=True, default=["127.0.0.1:1"], help="Relays.")
@flag("--drain", type=DURATION, default="10s", help="Time to finish.")
@flag("--ring", type=SIZE, default="64KiB", help="Bytes held.")
@flag("--streams", type=click.INT, default=100, help="Most streams.")
@flag("--allow-all", is_flag=True, help="No policy.")
@credential_flags(required=False)
def main(
    listen: Address,
    listen_tcp: Address | None,
    relay: tuple[Address, ...],
    drain: float,
    ring: int,
    streams: int,
    allow_all: bool,
    cert: Path | None,
    key: Path | None,
    ca: Path | None,
) -> Options:
    """Splice the two halves of each call."""
    if drain > 3600:
        raise ConfigError("--drain", "is longer than an hour", "use less")
    return Options(
        listen=listen,
        listen_tcp=listen_tcp,
        relay=relay,
        drain=drain,
        ring=ring,
        streams=streams,
        allow_all=allow_all,
        cert=cert,
    )


EXAMPLES = """
    # one
    outrelay-agent --cert a --key b \\
      --ca c

    # another
    outrelay-agent --cert d --key e \\
      --ca c
"""


@command("agent", run=run, check=check, examples=EXAMPLES)
@credential_flags(required=True)
def strict(cert: Path, key: Path, ca: Path) -> Options:
    """Needs credentials."""
    raise AssertionError


@pytest.fixture
def invoke() -> Invoke:
    def call(
        *args: str, env: dict[str, str] | None = None, program: click.Command = main
    ) -> Result:
        return CliRunner().invoke(program, args, env=env)

    return call


@pytest.fixture
def toml(tmp_path: Path) -> Write:
    """Writes a configuration file and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "relay.toml"
        path.write_text(text)
        return str(path)

    return write


# ---- which value wins ----------------------------------------------------------------------


@pytest.mark.parametrize("by_flag", [True, False])
@pytest.mark.parametrize("by_env", [True, False])
@pytest.mark.parametrize("by_file", [True, False])
def test_flag_over_environment_over_file_over_default(
    invoke: Invoke, toml: Write, by_flag: bool, by_env: bool, by_file: bool
) -> None:
    args = ["--listen", "flag:1"] if by_flag else []
    env = {"OUTRELAY_RELAY_LISTEN": "env:2"} if by_env else {}
    if by_file:
        args += ["--config", toml('listen = "file:3"')]

    result = invoke(*args, env=env)

    winner = (
        ("flag", 1)
        if by_flag
        else ("env", 2)
        if by_env
        else ("file", 3)
        if by_file
        else ("127.0.0.1", 7443)
    )
    assert f"listen={winner}" in result.stdout
    assert result.exit_code == 0


def test_the_file_may_be_named_by_the_environment(invoke: Invoke, toml: Write) -> None:
    result = invoke(env={"OUTRELAY_RELAY_CONFIG": toml('drain = "5m"')})

    assert "drain=300.0" in result.stdout


def test_every_kind_of_value_can_come_from_the_file(invoke: Invoke, toml: Write) -> None:
    path = toml("""
        listen = "[::1]:1"
        listen-tcp = ""
        relay = ["a:1", "b:2"]
        drain = "250ms"
        ring = "1MiB"
        streams = 7
        allow_all = true
        cert = "relay.pem"
        log-format = "json"
        log-level = "error"
    """)

    result = invoke("--config", path)

    assert result.stdout == (
        "Options(listen=('::1', 1), listen_tcp=None, relay=(('a', 1), ('b', 2)), drain=0.25, "
        "ring=1048576, streams=7, allow_all=True, cert=PosixPath('relay.pem'))\n"
    )


def test_every_kind_of_value_can_come_from_the_environment(invoke: Invoke) -> None:
    result = invoke(
        env={
            "OUTRELAY_RELAY_LISTEN": "[::1]:1",
            "OUTRELAY_RELAY_LISTEN_TCP": "[::1]:2",
            "OUTRELAY_RELAY_RELAY": "a:1, b:2",
            "OUTRELAY_RELAY_DRAIN": "250ms",
            "OUTRELAY_RELAY_RING": "1MiB",
            "OUTRELAY_RELAY_STREAMS": "7",
            "OUTRELAY_RELAY_ALLOW_ALL": "true",
            "OUTRELAY_RELAY_CERT": "relay.pem",
        }
    )

    assert result.stdout == (
        "Options(listen=('::1', 1), listen_tcp=('::1', 2), relay=(('a', 1), ('b', 2)), "
        "drain=0.25, ring=1048576, streams=7, allow_all=True, cert=PosixPath('relay.pem'))\n"
    )


@pytest.mark.parametrize(
    "args", [["--relay", "a:1", "--relay", "b:2"], ["--relay", "a:1,b:2"], ["--relay", "a:1, b:2,"]]
)
def test_a_repeated_flag_is_a_list_and_so_are_commas(invoke: Invoke, args: list[str]) -> None:
    assert "relay=(('a', 1), ('b', 2))" in invoke(*args).stdout


def test_commas_make_lists_in_the_file_too(invoke: Invoke, toml: Write) -> None:
    assert "relay=(('a', 1), ('b', 2))" in invoke("--config", toml('relay = "a:1,b:2"')).stdout


def test_an_empty_variable_counts_as_unset(invoke: Invoke) -> None:
    assert "listen=('127.0.0.1', 7443)" in invoke(env={"OUTRELAY_RELAY_LISTEN": ""}).stdout


def test_an_empty_optional_address_is_none(invoke: Invoke) -> None:
    assert "listen_tcp=None" in invoke("--listen-tcp", "").stdout


# ---- mistakes ------------------------------------------------------------------------------


def test_a_mistake_on_the_command_line_is_bad_usage(invoke: Invoke) -> None:
    result = invoke("--drain", "soon")

    assert result.exit_code == 2
    assert result.stderr.startswith("outrelay-relay: --drain: 'soon' is not a duration; write it")


def test_a_flag_wins_over_a_mistake_elsewhere(invoke: Invoke, toml: Write) -> None:
    path = toml('drain = "soon"')

    result = invoke("--drain", "1s", "--config", path, env={"OUTRELAY_RELAY_DRAIN": "later"})

    assert result.exit_code == 0


def test_a_mistake_in_the_environment_names_the_variable(invoke: Invoke) -> None:
    result = invoke(env={"OUTRELAY_RELAY_RELAY": "a:1,b"})

    assert result.exit_code == 78
    assert result.stderr == (
        "outrelay-relay: OUTRELAY_RELAY_RELAY: 'b' is not an address; "
        "write it like 127.0.0.1:7443 or [::1]:7443\n"
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('drain = "soon"', "drain: 'soon' is not a duration; write it like 250ms"),
        ('log-level = "loud"', "log-level: 'loud' is not one of 'debug', 'info', "),
        ("drain = 10", "drain: must be a string, not 10"),
        ('streams = "7"', "streams: must be a whole number, not '7'"),
        ("streams = true", "streams: must be a whole number, not True"),
        ("allow-all = 1", "allow-all: must be true or false, not 1"),
        ('listen = ["a:1"]', "listen: must be a string, not ['a:1']"),
        ("relay = [1]", "relay: must be a string or an array of them, not [1]"),
        ("relay = 1", "relay: must be a string or an array of them, not 1"),
    ],
)
def test_a_mistake_in_the_file_names_file_and_key(
    invoke: Invoke, toml: Write, text: str, fault: str
) -> None:
    path = toml(text)

    result = invoke("--config", path)

    assert result.exit_code == 78
    assert result.stderr.startswith(f"outrelay-relay: {path}: {fault}")
    assert result.stderr.count("\n") == 1


def test_unknown_keys_are_named(invoke: Invoke, toml: Write) -> None:
    path = toml('lisen = "a:1"\nconfig = "x"\n[limits]\ndrain = "1s"')

    result = invoke("--config", path)

    assert result.exit_code == 78
    assert result.stderr == (
        f"outrelay-relay: {path}: unknown keys: config, limits, lisen; "
        "keys are named like flags, see --help\n"
    )


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"a = ", "is not TOML: "),
        (b"\xff\xfe", "is not TOML: "),
    ],
)
def test_a_file_that_cannot_be_used(
    invoke: Invoke, tmp_path: Path, content: bytes | None, fault: str
) -> None:
    path = tmp_path / "relay.toml"
    if content is not None:
        path.write_bytes(content)

    result = invoke("--config", str(path))

    assert result.exit_code == 78
    assert result.stderr.startswith(f"outrelay-relay: {path}: {fault}")


def test_what_is_missing_everywhere_is_said_with_the_three_places(invoke: Invoke) -> None:
    result = invoke(program=strict)

    assert result.exit_code == 78
    assert result.stderr == (
        "outrelay-agent: --cert: is missing; "
        "give the flag, OUTRELAY_AGENT_CERT, or 'cert' in the --config file\n"
    )


@pytest.mark.parametrize("args", [["--drain", "2h"], ["--drain", "2h", "--check"]])
def test_options_that_do_not_go_together_are_a_fault(invoke: Invoke, args: list[str]) -> None:
    result = invoke(*args)

    assert result.exit_code == 78
    assert result.stderr == "outrelay-relay: --drain: is longer than an hour; use less\n"


def test_a_fault_the_service_finds_is_one_line_too(invoke: Invoke) -> None:
    result = invoke("--streams", "13")

    assert result.exit_code == 78
    assert result.stderr == "outrelay-relay: --streams: brings bad luck\n"


# ---- what all services have ----------------------------------------------------------------


def test_check_finds_nothing(invoke: Invoke) -> None:
    result = invoke("--check")

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "outrelay-relay: the configuration is fine\n"


def test_check_tells_every_fault_on_a_line_and_starts_nothing(invoke: Invoke) -> None:
    result = invoke("--check", "--ring", "2MiB")

    assert (result.exit_code, result.stdout) == (78, "")
    assert result.stderr == ("outrelay-relay: --ring: is large\noutrelay-relay: --drain: is long\n")


def test_version(invoke: Invoke) -> None:
    assert invoke("--version").stdout == f"outrelay-relay {__version__}\n"


def test_help_shows_text_defaults_and_examples(invoke: Invoke) -> None:
    text = invoke("--help").stdout

    assert "Splice the two halves of each call." in text
    assert "[default: 64KiB]" in text
    assert "HOST:PORT" in text
    assert text.endswith("Examples:\n    outrelay-relay --listen 0.0.0.0:7443\n")


def test_help_leaves_the_lines_of_every_example_as_they_are(invoke: Invoke) -> None:
    lines = [line.strip() for line in invoke("--help", program=strict).stdout.splitlines()]

    assert lines[-7:] == [line.strip() for line in EXAMPLES.strip().splitlines()]


async def run_nothing(_streams: int, _stop: asyncio.Event) -> None:
    raise AssertionError


async def count(streams: int, log_format: str) -> int:
    """An action: tells what it got."""
    click.echo(f"{streams} {log_format}")
    return 7


@command("relay", run=run_nothing, check=lambda _: [], examples=EXAMPLES, actions={"count": count})
@flag("--streams", type=click.INT, default=100, help="Most streams.")
def with_actions(streams: int) -> int:
    """Runs, or counts."""
    return streams


def test_an_argument_names_something_else_to_do(invoke: Invoke) -> None:
    done = invoke("count", "--streams", "3", "--log-format", "json", program=with_actions)
    assert (done.exit_code, done.stdout) == (7, "3 json\n")


def test_an_action_that_does_not_exist_is_bad_usage(invoke: Invoke) -> None:
    done = invoke("cuont", program=with_actions)
    assert done.exit_code == 2
    assert "'run', 'count'" in done.stderr

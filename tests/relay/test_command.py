"""The command line: every flag becomes its option."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from outrelay.lib.insight import Insight
from outrelay.relay import command
from outrelay.relay.options import Overflow, RelayOptions
from tests.support.pki import TestPki, save, save_trust


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The flags that have to be there."""
    pki = TestPki()
    relay = save(pki.relay(), tmp_path / "relay")
    ca = save_trust(pki.trust, tmp_path / "ca.pem")
    return ["--cert", str(relay.cert), "--key", str(relay.key), "--ca", str(ca)]


def built(*flags: str) -> RelayOptions:
    """The options that a command line makes."""
    context = command.main.make_context("outrelay-relay", list(flags))
    common = {"log_format", "log_level", "only_check"}
    values = {name: value for name, value in context.params.items() if name not in common}
    wrapped = command.main.callback
    assert wrapped is not None
    with context:
        options = wrapped.__wrapped__(**values)  # type: ignore[attr-defined]
    assert isinstance(options, RelayOptions)
    return options


def test_the_defaults_are_those_of_the_contract(files: list[str]) -> None:
    options = built(*files)

    assert options == RelayOptions(
        listen=("127.0.0.1", 7443),
        advertise=None,
        listen_tcp=None,
        advertise_tcp=None,
        controllers=("127.0.0.1:7444",),
        controller_plaintext=False,
        cert=options.cert,
        key=options.key,
        ca=options.ca,
        region="local",
        relay_id="",
        tenant="",
        max_streams_per_agent=10_000,
        max_streams_per_tenant=100_000,
        opens_per_second=1000,
        opens_per_second_per_tenant=10_000,
        max_services_per_agent=1000,
        max_services_per_tenant=10_000,
        resume_window=30.0,
        drain=10.0,
        audit_spool=None,
        audit_spool_size=256 * 2**20,
        audit_overflow=Overflow.DENY,
        allow_all=False,
        insight=Insight(debug_listen=("127.0.0.1", 9100)),
    )


def test_every_flag_has_its_option(files: list[str]) -> None:
    options = built(
        *files,
        *("--listen", "0.0.0.0:1", "--advertise", "relay.example.net:2"),
        *("--listen-tcp", "0.0.0.0:3", "--advertise-tcp", "relay.example.net:4"),
        *("--controller", "a:1,b:2", "--controller", "unix:/run/c.sock"),
        *("--controller-plaintext", "--region", "eu-1", "--relay-id", "r7"),
        *("--tenant", "acme", "--drain", "1m", "--allow-all"),
        *("--resume-window", "5s"),
        *("--max-streams-per-agent", "5", "--max-streams-per-tenant", "6"),
        *("--opens-per-second", "7", "--opens-per-second-per-tenant", "8"),
        *("--max-services-per-agent", "9", "--max-services-per-tenant", "10"),
        *("--audit-spool", "/var/spool/r7", "--audit-spool-size", "1GiB"),
        *("--audit-overflow", "drop"),
        *("--debug-listen", "[::1]:5", "--health-listen", "0.0.0.0:6"),
    )

    assert options == RelayOptions(
        listen=("0.0.0.0", 1),
        advertise=("relay.example.net", 2),
        listen_tcp=("0.0.0.0", 3),
        advertise_tcp=("relay.example.net", 4),
        controllers=("a:1", "b:2", "unix:/run/c.sock"),
        controller_plaintext=True,
        cert=options.cert,
        key=options.key,
        ca=options.ca,
        region="eu-1",
        relay_id="r7",
        tenant="acme",
        max_streams_per_agent=5,
        max_streams_per_tenant=6,
        opens_per_second=7,
        opens_per_second_per_tenant=8,
        max_services_per_agent=9,
        max_services_per_tenant=10,
        resume_window=5.0,
        drain=60.0,
        audit_spool=Path("/var/spool/r7"),
        audit_spool_size=2**30,
        audit_overflow=Overflow.DROP,
        allow_all=True,
        insight=Insight(debug_listen=("::1", 5), health_listen=("0.0.0.0", 6)),
    )


def test_check_is_content_with_what_is_fine(files: list[str]) -> None:
    anywhere = ["--listen", "127.0.0.1:0", "--debug-listen", "127.0.0.1:0"]
    done = CliRunner().invoke(command.main, [*files, *anywhere, "--check"])

    assert (done.exit_code, done.output) == (0, "outrelay-relay: the configuration is fine\n")


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--max-streams-per-agent", "0"], 2),
        (["--opens-per-second", "0"], 2),
        (["--drain", "soon"], 2),
        (["--tenant", "Not A Tenant"], 78),
        (["--audit-spool-size", "1KiB"], 78),
        (["--audit-overflow", "maybe"], 2),
        (["--audit-spool", "/proc/nowhere", "--check"], 78),
        (["--cert", "/nonexistent.pem", "--check"], 78),
    ],
)
def test_what_is_wrong_is_said(files: list[str], flags: list[str], code: int) -> None:
    done = CliRunner().invoke(command.main, [*files, *flags])

    assert done.exit_code == code
    assert flags[0] in done.output or flags[1] in done.output

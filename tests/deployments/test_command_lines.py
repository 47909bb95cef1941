"""The reading of command lines finds what the programs would refuse."""

from __future__ import annotations

import click
import pytest

from outrelay.lib.errors import ConfigError
from outrelay.relay.options import RelayOptions
from tests.deployments.command_lines import is_ours, options, understood

RELAY = ("/usr/bin/outrelay-relay", "--cert=c", "--key=k", "--ca=a")


def test_a_program_is_known_by_its_name() -> None:
    assert is_ours(RELAY)
    assert not is_ours(("python", "-m", "http.server"))
    assert not is_ours(())


def test_options_are_those_of_flags_and_environment() -> None:
    read = options((*RELAY, "--drain=30s"), {"OUTRELAY_RELAY_LISTEN": "0.0.0.0:1", "PATH": "/"})

    assert isinstance(read, RelayOptions)
    assert (read.drain, read.listen) == (30.0, ("0.0.0.0", 1))


@pytest.mark.parametrize("flag", ["--invented", "--drain=soon", "extra"])
def test_what_the_program_refuses_is_an_error(flag: str) -> None:
    with pytest.raises(click.ClickException):
        understood((*RELAY, flag))


def test_what_is_missing_is_an_error() -> None:
    with pytest.raises(click.ClickException, match="--ca: is missing"):
        understood(RELAY[:-1])


def test_a_variable_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(AssertionError, match=r"outrelay-relay knows no.*OUTRELAY_RELAY_INVENTED"):
        understood(RELAY, {"OUTRELAY_RELAY_INVENTED": "1"})


def test_what_does_not_go_together_is_an_error() -> None:
    with pytest.raises(ConfigError, match="--tenant"):
        options((*RELAY, "--tenant=Not a name"))


def test_commands_of_commands_are_read_to_the_last() -> None:
    line = ["outrelay-cli", "--controller=unix:/run/a.sock", "policy", "list", "--tenant=acme"]

    assert understood(line, {"OUTRELAY_CLI_CERT": "c"}).params["tenant"] == "acme"
    with pytest.raises(click.ClickException):
        understood([*line, "--invented"])
    with pytest.raises(click.ClickException):
        understood(["outrelay-cli", "invented"])

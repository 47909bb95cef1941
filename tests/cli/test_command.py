"""The CLI as a whole: where flags may stand, ways in, exit codes, the program itself."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import click
import pytest

from outrelay.cli.command import exit_code, main
from outrelay.lib.errors import ConfigError, ControlError, StoreError
from outrelay.lib.identity.uri import Role
from outrelay.lib.identity.verify import Usage
from tests.cli.running import Cli, cli_of, identity_files
from tests.controller.live import LiveController
from tests.support.pki import Hostile, TestPki
from tests.support.processes import run

LIST = ("policy", "list")


def anonymous(cli: Cli) -> Cli:
    """The same user without a certificate."""
    kept = {
        name: value
        for name, value in cli.environment.items()
        if name not in ("OUTRELAY_CLI_CERT", "OUTRELAY_CLI_KEY", "OUTRELAY_CLI_CA")
    }
    return dataclasses.replace(cli, environment=kept)


class TestWaysIn:
    async def test_flags_stand_before_or_after_the_command(
        self, cli: Cli, controller: LiveController
    ) -> None:
        files = identity_files(cli.directory, controller, controller.pki.operator())
        flags = [
            text
            for name, path in files.items()
            for text in (f"--{name.rpartition('_')[2].lower()}", path)
        ]
        await anonymous(cli).ok(*flags, *LIST)
        await anonymous(cli).ok(*LIST, *flags)

    async def test_what_stands_after_the_command_counts(
        self, cli: Cli, controller: LiveController
    ) -> None:
        await cli.ok(
            "--controller", "127.0.0.1:1", *LIST, "--controller", controller.targets["tls"]
        )

    async def test_the_admin_socket_and_plaintext_need_no_certificate(
        self, cli: Cli, controller: LiveController
    ) -> None:
        nobody = anonymous(cli)
        tenant = ("--tenant", "acme")
        await nobody.ok(*LIST, *tenant, "--controller", controller.targets["admin"])
        plaintext = controller.targets["plaintext"]
        await nobody.ok(*LIST, *tenant, "--plaintext", "--controller", plaintext)


class TestWhatGoesWrong:
    async def test_without_a_way_in(self, cli: Cli) -> None:
        line = await anonymous(cli).fails(2, *LIST)
        assert "--cert, --key, --ca missing" in line
        assert "--controller unix:PATH" in line

    async def test_a_file_that_cannot_be_used(self, cli: Cli) -> None:
        line = await cli.fails(78, *LIST, "--cert", cli.directory / "none.pem")
        assert "none.pem: cannot be read: No such file or directory" in line

    async def test_an_address_that_is_none(self, cli: Cli) -> None:
        assert "is not an address" in await cli.fails(78, *LIST, "--controller", "nowhere")

    async def test_nobody_there(self, cli: Cli) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        line = await cli.fails(5, *LIST, "--controller", f"127.0.0.1:{port}")
        assert "nobody listens there" in line

    async def test_a_certificate_of_another_ca(self, cli: Cli, controller: LiveController) -> None:
        liar = controller.pki.hostile(Hostile.WRONG_CA, role=Role.OPERATOR, usage=Usage.CLIENT)
        line = await cli_of(cli.directory / "x", controller, liar).fails(4, *LIST)
        assert "refused our certificate, which does not lead to a CA we trust" in line

    async def test_a_controller_of_another_ca(self, cli: Cli) -> None:
        other = cli.directory / "other-ca.pem"
        other.write_bytes(TestPki().trust.pem)
        line = await cli.fails(4, *LIST, "--ca", other)
        assert "its certificate does not lead to a CA we trust" in line

    async def test_an_agents_certificate(self, cli: Cli, controller: LiveController) -> None:
        agent = cli_of(cli.directory, controller, controller.pki.agent())
        line = await agent.fails(4, *LIST, "--tenant", "acme")
        assert "has the role agent" in line
        assert "needs a certificate of the role operator" in line

    async def test_a_command_line_nobody_understands(self, cli: Cli) -> None:
        line = await cli.fails(2, "policy", "add", "--caller", "x")
        assert line == ("outrelay-cli: --target: is missing; see: outrelay-cli policy add --help")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("file", "broken"), 78),
        (ControlError("NOT_FOUND", "no"), 3),
        (ControlError("PERMISSION_DENIED", "no"), 4),
        (ControlError("UNAUTHENTICATED", "no"), 4),
        (ControlError("UNAVAILABLE", "no"), 5),
        (ControlError("DEADLINE_EXCEEDED", "no"), 5),
        (ControlError("INVALID_ARGUMENT", "no"), 2),
        (ControlError("INTERNAL", "no"), 1),
        (StoreError("file", "no"), 1),
    ],
)
def test_the_exit_code_says_what_kind_of_error_it_was(error: ControlError, code: int) -> None:
    assert exit_code(error) == code


def commands(group: click.Group, *names: str) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += commands(command, *names, name)
        else:
            found.append((*names, name))
    return found


@pytest.mark.parametrize("command", commands(main), ids=" ".join)
async def test_every_command_has_a_help(command: tuple[str, ...], tmp_path: Path) -> None:
    help_text = await Cli(tmp_path, {}).ok(*command, "--help")
    assert f"Usage: outrelay-cli {' '.join(command)}" in help_text


async def test_the_program_itself(cli: Cli) -> None:
    """As a process, with nothing of ours between it and the system."""
    rule = ("--caller", "*", "--target", "db", "--decision", "allow")
    added = await run("outrelay-cli", "policy", "add", *rule, env=cli.environment)
    assert (added.code, added.stderr) == (0, "")
    listed = await run("outrelay-cli", *LIST, "--output", "json", env=cli.environment)
    assert added.stdout.strip() in listed.stdout
    refused = await run("outrelay-cli", *LIST, "--tenant", "other", env=cli.environment)
    assert (refused.code, refused.stdout) == (4, "")
    assert len(refused.stderr.splitlines()) == 1

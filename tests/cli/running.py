"""The CLI against a live controller: the controller in the test's loop, the CLI in a thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner, Result

from outrelay.cli.command import main
from outrelay.lib.identity.certs import Credentials
from tests.controller.live import LiveController
from tests.support.pki import save


@dataclass(frozen=True)
class Cli:
    """One user of the CLI: its environment and its files."""

    directory: Path
    environment: dict[str, str]

    async def run(self, *arguments: str | Path, stdin: str | None = None) -> Result:
        """Run a command; its result, whatever it is."""
        call: Callable[..., Result] = CliRunner().invoke
        texts = [str(argument) for argument in arguments]
        return await asyncio.to_thread(call, main, texts, env=self.environment, input=stdin)

    async def ok(self, *arguments: str | Path) -> str:
        """Run a command that succeeds; what it prints."""
        result = await self.run(*arguments)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        return result.stdout

    async def fails(self, code: int, *arguments: str | Path) -> str:
        """Run a command that ends with this code; its one line of error."""
        result = await self.run(*arguments)
        assert result.exit_code == code, (result.output, result.exception)
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("outrelay-cli: ")
        return line

    async def records(self, *arguments: str) -> list[dict[str, object]]:
        """Run a command with JSON output; its lines."""
        out = await self.ok(*arguments, "--output", "json")
        return [json.loads(line) for line in out.splitlines()]


def identity_files(directory: Path, controller: LiveController, who: Credentials) -> dict[str, str]:
    """The variables that name the files of a certificate."""
    assert controller.options.ca is not None
    files = save(who, directory / who.identity.name)
    return {
        "OUTRELAY_CLI_CERT": str(files.cert),
        "OUTRELAY_CLI_KEY": str(files.key),
        "OUTRELAY_CLI_CA": str(controller.options.ca),
    }


def cli_of(directory: Path, controller: LiveController, who: Credentials | None = None) -> Cli:
    """The CLI with the controller's TLS address and a certificate in the environment."""
    environment = {
        "OUTRELAY_CLI_CONTROLLER": controller.targets["tls"],
        "XDG_CONFIG_HOME": str(directory / "config"),
    }
    if who is not None:
        environment |= identity_files(directory, controller, who)
    return Cli(directory, environment)

"""A controller, and an operator of acme who calls it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.running import Cli, cli_of
from tests.controller.live import LiveController, live_controller


@pytest.fixture
async def controller(tmp_path: Path) -> AsyncIterator[LiveController]:
    """A controller with TLS, plaintext and admin socket."""
    async with live_controller(tmp_path) as running:
        yield running


@pytest.fixture
def cli(tmp_path: Path, controller: LiveController) -> Cli:
    """The CLI of an operator of acme."""
    return cli_of(tmp_path, controller, controller.pki.operator("acme", "alice"))

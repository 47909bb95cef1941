"""``outrelay-cli controller`` against a live one."""

from __future__ import annotations

import pytest

from outrelay.lib.observe import logs
from tests.cli.running import Cli, cli_of
from tests.controller.live import LiveController


@pytest.fixture(autouse=True)
def usual() -> None:
    logs.configure("controller", level="info")


@pytest.fixture
def system(cli: Cli, controller: LiveController) -> Cli:
    return cli_of(cli.directory, controller, controller.pki.operator("system", "root"))


async def test_the_level_is_shown_and_changed(system: Cli) -> None:
    assert await system.ok("controller", "log-level") == "info\n"
    assert await system.ok("controller", "log-level", "debug") == "debug\n"
    assert await system.records("controller", "log-level", "warning") == [
        {"level": "warning", "before": "debug"}
    ]
    assert logs.level() == "warning"


async def test_an_operator_of_one_tenant_may_not(cli: Cli) -> None:
    line = await cli.fails(4, "controller", "log-level", "debug")

    assert "the admin socket" in line
    assert logs.level() == "info"

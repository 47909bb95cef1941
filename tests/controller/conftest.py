"""The controller that most tests call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.controller.live import LiveController, live_controller


@pytest.fixture
async def controller(tmp_path: Path) -> AsyncIterator[LiveController]:
    """A controller with TLS, plaintext and admin socket."""
    async with live_controller(tmp_path) as running:
        yield running

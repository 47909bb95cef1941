"""One world for all tests that leave it as it was, a fresh one for those that do not.

All of it runs on one event loop for the whole session: a test module says
``pytestmark = pytest.mark.asyncio(loop_scope="session")``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.world import World, outrelay_world


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """The world that tests share."""
    async with outrelay_world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="session")
async def own_world(tmp_path: Path) -> AsyncIterator[World]:
    """A world that the test may break."""
    async with outrelay_world(tmp_path) as world:
        yield world

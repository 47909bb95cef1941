"""One world for all tests that leave it as it was, a fresh one for those that do not.

All of it runs on one event loop for the whole session: a test module says
``pytestmark = pytest.mark.asyncio(loop_scope="session")``.

Every test of a world runs over each carrier: in `make test` over QUIC, in `make test-all` over
TCP as well. A module that says ``CARRIERS = ("quic", "tcp", "tcp-quic")`` runs over those, each
in `make test`; what is about QUIC alone says ``CARRIERS = ("quic",)``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.world import Carriers, World, outrelay_world

CARRIERS = ("quic", pytest.param("tcp", marks=pytest.mark.soak))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "carriers" in metafunc.fixturenames:
        chosen = getattr(metafunc.module, "CARRIERS", CARRIERS)
        metafunc.parametrize("carriers", chosen, indirect=True, scope="session")


@pytest.fixture(scope="session")
def carriers(request: pytest.FixtureRequest) -> Carriers:
    """What the agents of the world speak."""
    return Carriers.parse(request.param)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def world(
    tmp_path_factory: pytest.TempPathFactory, carriers: Carriers
) -> AsyncIterator[World]:
    """The world that tests share."""
    async with outrelay_world(tmp_path_factory.mktemp("world"), carriers=carriers) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="session")
async def own_world(tmp_path: Path, carriers: Carriers) -> AsyncIterator[World]:
    """A world that the test may break."""
    async with outrelay_world(tmp_path, carriers=carriers) as world:
        yield world

"""One world for all tests that leave it as it was, a fresh one for those that do not.

All of it runs on one event loop for the whole session: a test module says
``pytestmark = pytest.mark.asyncio(loop_scope="session")``.

Every test of a world runs over each carrier: in `make test` over QUIC, in `make test-all` over
TCP as well. A module that says ``CARRIERS = ("quic", "tcp-quic")`` runs over those, each in
`make test`. What moves many bytes, or tries to break QUIC, says ``CARRIERS = ON_BOTH_ENGINES`` and
runs on the native engine, too, in `make test-all`; ``TEST_QUIC_ENGINE=native`` has everything
run on it. There is one shared world for each, from its first test to the end of the session;
``modules_world`` is one that only the tests of a module share.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.carriers import CARRIERS
from tests.integration.world import IMPATIENT, Carriers, World, outrelay_world

Worlds = Callable[[Carriers], Awaitable[World]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "carriers" in metafunc.fixturenames:
        chosen = getattr(metafunc.module, "CARRIERS", CARRIERS)
        metafunc.parametrize("carriers", chosen, indirect=True, scope="module")


@pytest.fixture(scope="module")
def carriers(request: pytest.FixtureRequest) -> Carriers:
    """What the agents of the world speak."""
    return Carriers.parse(request.param)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def worlds(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Worlds]:
    """The worlds that tests share."""
    made: dict[Carriers, World] = {}
    async with AsyncExitStack() as stack:

        async def shared(carriers: Carriers) -> World:
            if carriers not in made:
                directory = tmp_path_factory.mktemp("world")
                world = outrelay_world(directory, agent_flags=IMPATIENT, carriers=carriers)
                made[carriers] = await stack.enter_async_context(world)
            return made[carriers]

        yield shared


@pytest_asyncio.fixture(loop_scope="session")
async def world(worlds: Worlds, carriers: Carriers) -> World:
    """The world that tests share."""
    return await worlds(carriers)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def modules_world(
    tmp_path_factory: pytest.TempPathFactory, carriers: Carriers
) -> AsyncIterator[World]:
    """A world for the tests of one module, which may leave it otherwise than it was."""
    directory = tmp_path_factory.mktemp("world")
    async with outrelay_world(directory, agent_flags=IMPATIENT, carriers=carriers) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="session")
async def own_world(
    request: pytest.FixtureRequest, tmp_path: Path, carriers: Carriers
) -> AsyncIterator[World]:
    """A world that the test may break; its module may say ``AGENT_FLAGS``."""
    flags = getattr(request.module, "AGENT_FLAGS", ())
    async with outrelay_world(tmp_path, agent_flags=flags, carriers=carriers) as world:
        yield world

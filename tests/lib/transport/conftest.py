"""The carriers that the contract suite runs on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.lib.transport.carriers import HARNESSES, Harness, Pair, QuicHarness
from tests.support.native import over_engines


@pytest.fixture(params=over_engines(HARNESSES))
async def carrier(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    """One carrier, ready to listen and dial."""
    harness: Harness = HARNESSES[request.param]()
    yield harness
    await harness.close()


@pytest.fixture
async def pair(carrier: Harness) -> Pair:
    """A connection from end to end."""
    return await carrier.connect()


@pytest.fixture
async def quic() -> AsyncIterator[QuicHarness]:
    """The QUIC carrier, for what only it does."""
    harness = QuicHarness()
    yield harness
    await harness.close()

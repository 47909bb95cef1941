"""What the tests of the agent share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.agent.place import Place
from tests.support.events import Events, events


@pytest.fixture
def seen() -> Iterator[Events]:
    """What is logged."""
    with events() as seen:
        yield seen


@pytest.fixture
async def place(seen: Events) -> Place:
    """A network with one relay."""
    return Place(seen)

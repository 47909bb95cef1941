"""What the tests of what can be seen share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.events import Events, events


@pytest.fixture
def seen() -> Iterator[Events]:
    """What is logged."""
    with events() as seen:
        yield seen

"""The network of the netlab tests; all of them need root and two Debian packages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netlab.lab import Lab, missing


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An empty lab; the test is skipped where none can be built."""
    if reason := missing():
        pytest.skip(reason)
    with Lab() as lab:
        yield lab

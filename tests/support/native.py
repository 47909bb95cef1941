"""Whether the native packet engine is there, for the tests that need it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from outrelay.lib.transport.quic.engines import native_fault

FAULT = native_fault()

needs_native = pytest.mark.skipif(
    bool(FAULT), reason=f"the native engine is not built (make native): {FAULT}"
)


def over_engines(names: Iterable[str]) -> list[Any]:
    """Parameters of a fixture; those whose name speaks of the native engine need it."""
    return [pytest.param(name, marks=needs_native if "native" in name else ()) for name in names]

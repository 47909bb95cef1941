"""Whether the native packet engine is there, for the tests that need it.

A test marked ``native`` (``needs_native``) is skipped where it is not: ``skip_without_native``
does that for all of them at one place, so that a run tells of it in one line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from outrelay.lib.transport.quic.engines import native_fault

FAULT = native_fault()

needs_native = pytest.mark.native


def skip_without_native(item: pytest.Item) -> None:
    """Skip ``item`` if it needs the native engine, which is not there."""
    if FAULT and item.get_closest_marker("native"):
        pytest.skip(f"the native QUIC engine is not built (make native): {FAULT}")


def over_engines(names: Iterable[str]) -> list[Any]:
    """Parameters of a fixture; those whose name speaks of the native engine need it."""
    return [pytest.param(name, marks=needs_native if "native" in name else ()) for name in names]

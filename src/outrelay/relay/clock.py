"""Time as rules and audit events have it."""

from __future__ import annotations

import time


def unix_ms() -> int:
    """Milliseconds since the epoch, now."""
    return time.time_ns() // 1_000_000

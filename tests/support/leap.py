"""Time that leaps, for code that waits by the loop's clock and talks to sockets.

    leap(11)  # whoever was heard of last before this has been silent for eleven seconds

On asyncio's own loop only. Where nothing but timers is waited for, ``virtual_loop`` does it by
itself.
"""

from __future__ import annotations

import asyncio


def leap(seconds: float) -> None:
    """Have the running loop's clock show so much more, until the loop's end."""
    loop = asyncio.get_running_loop()
    time = loop.time
    loop.time = lambda: time() + seconds  # type: ignore[method-assign]

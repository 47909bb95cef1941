"""Trying for something better, while what there is will do: from tcp back to quic.

It is tried again after a while that doubles, and at once when the host is in another network,
where everything may be different.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from outrelay.lib.errors import Refused
from outrelay.lib.observe import logs
from outrelay.lib.transport.network import fingerprint

log = logs.get_logger(__name__)

Made = TypeVar("Made")

FIRST = 30.0
MOST = 600.0
"""Seconds until a try, and what they double to."""

LOOK = 5.0
"""Seconds between two looks at which network this is."""


async def reach(
    attempt: Callable[[], Awaitable[Made]], *, network: Callable[[], str] = fingerprint
) -> Made:
    """What ``attempt`` makes, as soon as it is not refused.

    Args:
        attempt: Raises Refused until it succeeds.
        network: Tells which one the host is in.
    """
    here, wait = network(), FIRST
    while True:
        if await _changes(here, wait, network):
            here, wait = network(), FIRST
            log.info("another network, looking for a better way to a relay")
        else:
            wait = min(2 * wait, MOST)
        try:
            return await attempt()
        except Refused as refused:
            log.debug("no better way to a relay", error=str(refused), seconds=wait)


async def _changes(here: str, limit: float, network: Callable[[], str]) -> bool:
    """Whether the network has become another one within ``limit`` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit
    while (left := end - loop.time()) > 0:
        await asyncio.sleep(min(LOOK, left))
        if network() not in ("", here):
            return True
    return False

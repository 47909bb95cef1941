"""Until when our certificate is good, and whether there is a newer one."""

from __future__ import annotations

import asyncio


class Proof:
    """The certificate that new connections show.

    Args:
        expires: When it ends, seconds since the epoch.
    """

    def __init__(self, expires: float) -> None:
        self.expires = expires
        self.superseded = asyncio.Event()
        """Set once there is a newer one; each has an event of its own."""

    def renew(self, expires: float) -> None:
        """New connections show another certificate from now on.

        Args:
            expires: When that ends.
        """
        self.expires = expires
        self.superseded.set()
        self.superseded = asyncio.Event()

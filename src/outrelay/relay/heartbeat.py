"""Tells the controller every few seconds that this relay lives, and where.

The heartbeat also judges the line: when it gets no answer the line is renewed, so that the
watches do not hang on a connection that is dead without saying so.

Source: control-plane.md, Registry, UpsertRelay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.errors import ControlError
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.transport.dial import Backoff
from outrelay.relay.controller import LONGEST_BACKOFF, Controller

log = get_logger(__name__)

INTERVAL = 10.0
"""Seconds between beats."""


class Heartbeat:
    """Calls UpsertRelay for ever.

    Args:
        controller: Whom to tell.
        describe: What to tell, at the time of each beat.
        interval: Seconds between beats.
    """

    def __init__(
        self,
        controller: Controller,
        describe: Callable[[], registry.UpsertRelayRequest],
        interval: float = INTERVAL,
    ) -> None:
        self._controller = controller
        self._describe = describe
        self._interval = interval

    def hurry(self) -> None:
        """Beat at once: what there is to tell has changed."""
        self._controller.suspected.set()

    async def run(self) -> None:
        """Beat for ever."""
        backoff = Backoff()
        fault = "not called yet"
        while True:
            try:
                await self._beat()
            except ControlError as error:
                if str(error) != fault:
                    fault = str(error)
                    log.warning("heartbeat not taken", reason=fault)
                await self._controller.renew_after(error)
                delay = backoff.delay(LONGEST_BACKOFF)
            else:
                if fault:
                    log.info("heartbeat taken", controller=self._controller.target)
                fault = ""
                backoff.reset()
                delay = self._interval
            await self._pause(delay)

    async def _beat(self) -> None:
        request = self._describe()
        await self._controller.call(
            lambda services, timeout: services.registry.UpsertRelay(request, timeout=timeout)
        )

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._controller.suspected.wait()
        self._controller.suspected.clear()

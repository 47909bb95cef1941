"""Tells the controller every few seconds that this relay lives, and where.

The heartbeat also judges the line: when it gets no answer the line is renewed, so that the
watches do not hang on a connection that is dead without saying so. And it compares the two
clocks: rules expire by the relay's.

Source: control-plane.md, Registry, UpsertRelay; Policy, Evaluation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.errors import ControlError
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.transport.dial import Backoff
from outrelay.relay.clock import unix_ms
from outrelay.relay.controller import LONGEST_BACKOFF, Controller

log = get_logger(__name__)

INTERVAL = 10.0
"""Seconds between beats."""

MOST_SKEW = 5_000
"""Milliseconds that the clocks may differ before that is told."""


class Heartbeat:
    """Calls UpsertRelay for ever.

    Args:
        controller: Whom to tell.
        describe: What to tell, at the time of each beat.
        interval: Seconds between beats.
        now_ms: The time, milliseconds since the epoch.
    """

    def __init__(
        self,
        controller: Controller,
        describe: Callable[[], registry.UpsertRelayRequest],
        interval: float = INTERVAL,
        *,
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self._controller = controller
        self._describe = describe
        self._interval = interval
        self._now_ms = now_ms
        self._is_skewed = False

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
        request, sent = self._describe(), self._now_ms()
        answer = await self._controller.call(
            lambda services, timeout: services.registry.UpsertRelay(request, timeout=timeout)
        )
        if theirs := answer.server_time_unix_ms:  # plain controllers do not tell
            self._compare(skew_of(theirs, sent, self._now_ms()))

    def _compare(self, skew: int) -> None:
        """Warn of a controller whose clock is so much ahead; once, as long as it is."""
        was_skewed, self._is_skewed = self._is_skewed, abs(skew) > MOST_SKEW
        if self._is_skewed and not was_skewed:
            log.warning(
                "clocks differ",
                controller=self._controller.target,
                ahead_seconds=round(skew / 1000, 1),
                hint="rules expire by this machine's clock: set both by NTP",
            )

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._controller.suspected.wait()
        self._controller.suspected.clear()


def skew_of(theirs: int, sent: int, received: int) -> int:
    """How far a clock is ahead that showed ``theirs`` at some time between the two others.

    Args:
        theirs: Milliseconds since the epoch, like the rest.
        sent: When it was asked, by our clock.
        received: When the answer had come.

    Returns:
        Milliseconds that no delay of the question or the answer explains; below 0: it is behind.
    """
    return max(theirs - received, 0) or min(theirs - sent, 0)

"""Ends live streams that policy allows no longer.

Every complete change of the rules, and every expiry that something live depends on, has all
live streams judged again, from memory. One that is denied now is reset with DENIED at both
ends and recorded; the others feel nothing, however many are judged: bytes have their turn in
between. A stream that is still being opened is marked, and refused when its provider accepts.

Source: control-plane.md, Policy (a change takes effect on live streams within 1 s).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from outrelay.lib.errors import ErrorCode
from outrelay.lib.observe.logs import get_logger
from outrelay.relay.audit.trail import Trail
from outrelay.relay.clock import unix_ms
from outrelay.relay.pairs import Pair, Pairs
from outrelay.relay.policy.judge import Judge

log = get_logger(__name__)

LOOK_EVERY = 0.5
"""Seconds between looks at the clock, for rules that expire."""

TURN = 64
"""Streams judged before everybody else has a turn."""


class Revoker:
    """Judges live streams again.

    Args:
        judge: What policy says, and when it says something else.
        pairs: The streams.
        trail: Where every revocation is recorded.
        now_ms: The time, milliseconds since the epoch.
    """

    def __init__(
        self,
        judge: Judge,
        pairs: Pairs,
        trail: Trail,
        *,
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self._judge = judge
        self._pairs = pairs
        self._trail = trail
        self._now_ms = now_ms

    async def run(self) -> None:
        """Judge for ever, each time there is a reason to."""
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY):
                    await self._judge.revised.wait()
            except TimeoutError:
                if not self._judge.expired(self._now_ms()):
                    continue
            self._judge.revised.clear()
            await self.judge_all()

    async def judge_all(self) -> None:
        """End the streams that are denied as things stand."""
        for number, pair in enumerate(self._pairs, start=1):
            verdict = self._judge.judge_live(pair.call, pair.provider.uri)
            if not (verdict.allow or pair.over.is_set()):
                self.end(pair, verdict.reason)
            if number % TURN == 0:
                await asyncio.sleep(0)

    def end(self, pair: Pair, reason: str) -> None:
        """End one stream, both ways, and record why."""
        if pair.revoked:
            return
        pair.revoked = reason
        self._trail.revoked(pair.call, pair.provider.uri, reason)
        log.info(
            "stream revoked",
            stream_id=pair.call.stream_name,
            consumer=pair.call.caller,
            service=pair.call.service,
            reason=reason,
        )
        if pair.splice is not None:
            pair.splice.abandon(ErrorCode.DENIED, reason)

"""The fleet again and again, whatever becomes of the controller once it has answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from outrelay.cli.session import Session
from outrelay.cli.watch.rates import Rates, between
from outrelay.cli.watch.sample import Sample, take
from outrelay.lib.errors import ControlError

AWAY = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "UNAUTHENTICATED"})
"""Failures that may pass; the last one is what a controller looks like that stops just then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What there is to show now.

    Args:
        sample: What the controller said last.
        rates: How fast what passes; none while it is away.
        away: Why the controller does not answer; empty: it does.
        away_ms: Since when, or until when it was last, milliseconds since the epoch; 0: never.
        lasted: Seconds it was away, once it is back.
    """

    sample: Sample
    rates: Rates = field(default_factory=Rates)
    away: str = ""
    away_ms: int = 0
    lasted: float = 0.0


async def frames(session: Session, interval: float) -> AsyncGenerator[Frame, None]:
    """A frame every ``interval`` seconds, for ever.

    Raises:
        ControlError: The controller did not answer the first time, or refuses to.
    """
    loop = asyncio.get_running_loop()
    last: Sample | None = None
    gone_ms = back_ms = 0
    while True:
        try:
            async with session.channel() as channel:
                while True:
                    due = loop.time() + interval
                    sample = await take(channel, session.tenant)
                    if gone_ms > back_ms:
                        back_ms = sample.taken_ms
                    yield Frame(
                        sample=sample,
                        rates=between(last, sample),
                        away_ms=back_ms,
                        lasted=(back_ms - gone_ms) / 1000,
                    )
                    last = sample
                    await asyncio.sleep(due - loop.time())
        except ControlError as error:
            if last is None or error.status not in AWAY:
                raise
            if gone_ms <= back_ms:
                gone_ms = time.time_ns() // 1_000_000
            yield Frame(sample=last, away=error.reason, away_ms=gone_ms)
        await asyncio.sleep(interval)

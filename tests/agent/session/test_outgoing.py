"""When a relay is asked for a sign of life, and when it counts as gone."""

from __future__ import annotations

import asyncio

import pytest

from outrelay.agent.session.outgoing import Outgoing, Pulse
from outrelay.lib.errors import Closed
from outrelay.lib.tasks import beside
from tests.support.leap import leap
from tests.support.virtual_loop import elapsed

pytestmark = pytest.mark.virtual_time

DEAD = 3.0


class Noted(Outgoing):
    """Notes when it should send a PING."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def ping(self) -> None:
        self.at.append(elapsed())


async def test_a_relay_is_asked_each_second_and_gone_when_it_does_not_answer() -> None:
    asked = Noted()
    pulse = Pulse(asked, DEAD)
    pulse.live = True
    with pytest.raises(Closed, match="the relay did not answer within 3 s") as closed:
        await pulse.run()
    assert closed.value.lost
    assert (asked.at, elapsed()) == ([0.0, 1.0, 2.0], DEAD)


async def test_without_streams_it_is_not_asked() -> None:
    asked = Noted()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await Pulse(asked, DEAD).run()
    assert not asked.at


async def test_a_relay_that_answers_now_and_then_is_there() -> None:
    pulse = Pulse(Noted(), DEAD)
    pulse.live = True
    async with beside(pulse.run(), name="pulse"):
        for _ in range(20):
            await asyncio.sleep(DEAD - 0.1)
            pulse.heard()


async def test_silence_from_before_there_were_streams_does_not_count() -> None:
    pulse = Pulse(Noted(), DEAD)
    async with beside(pulse.run(), name="pulse"):
        await asyncio.sleep(60)
        pulse.live = True
        await asyncio.sleep(DEAD - 1)


async def test_who_was_stopped_itself_does_not_blame_the_relay() -> None:
    """What the relay has said meanwhile is read only after the clock was."""
    pulse = Pulse(Noted(), DEAD)
    pulse.live = True
    async with beside(pulse.run(), name="pulse") as running:
        await asyncio.sleep(0.5)
        leap(15.0)
        await asyncio.sleep(DEAD - 0.1)
        assert not running.done()
        pulse.heard()


async def test_an_answer_tells_how_long_it_took() -> None:
    pulse = Pulse(Noted(), DEAD)
    pulse.live = True
    async with beside(pulse.run(), name="pulse"):
        await asyncio.sleep(0.25)
        assert pulse.rtt is None
        pulse.answered()
        assert pulse.rtt == pytest.approx(0.25)
        pulse.answered()  # nobody asked
        assert pulse.rtt == pytest.approx(0.25)


async def test_an_answer_that_is_late_is_that_of_the_first_question() -> None:
    pulse = Pulse(Noted(), DEAD)
    pulse.live = True
    async with beside(pulse.run(), name="pulse"):
        await asyncio.sleep(2.5)
        pulse.answered()
        assert pulse.rtt == pytest.approx(2.5)

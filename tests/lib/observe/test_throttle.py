"""Lines in a flood: the first at once, then one a second, and no count is lost."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.throttle import MOST, QUIET, Throttle
from tests.support.events import events

log = get_logger(__name__)


class Clock:
    """Virtual time, and what is to happen in it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def call_later(self, delay: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + delay, next(self._numbers), work))

    def pass_for(self, seconds: float) -> None:
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self.now, _, work = heapq.heappop(self._due)
            work()
        self.now = end

    @property
    def idle(self) -> bool:
        return not self._due


def test_a_flood_is_a_line_at_once_and_one_a_second() -> None:
    clock = Clock()
    throttled = Throttle(clock.call_later)
    with events() as seen:
        for number in range(2_500):
            throttled.write(log.warning, "refused", cause="alpn", number=number)
            clock.pass_for(1 / 1024)
        clock.pass_for(10.0)

    lines = seen.of("refused", level="warning")
    assert [line.get("times", 1) for line in lines] == [1, 1023, 1024, 452]
    assert [line["number"] for line in lines] == [0, 1023, 2047, 2499]
    assert clock.idle  # nothing is kept of it


def test_a_line_that_was_held_says_so_by_its_count() -> None:
    clock = Clock()
    throttled = Throttle(clock.call_later)
    with events() as seen:
        throttled.write(log.info, "refused", number=1)
        throttled.write(log.info, "refused", number=2)
        clock.pass_for(QUIET)

    assert [(line["number"], line.get("times")) for line in seen.lines] == [(1, None), (2, 1)]


def test_what_happens_now_and_then_is_written_each_time() -> None:
    clock = Clock()
    throttled = Throttle(clock.call_later)
    with events() as seen:
        for number in range(3):
            throttled.write(log.info, "refused", number=number)
            clock.pass_for(QUIET)

    assert [line["number"] for line in seen.of("refused")] == [0, 1, 2]
    assert not any("times" in line for line in seen.lines)


def test_other_causes_and_other_events_are_lines_of_their_own() -> None:
    throttled = Throttle(Clock().call_later)
    with events() as seen:
        throttled.write(log.info, "refused", cause="alpn")
        throttled.write(log.info, "refused", cause="timeout")
        throttled.write(log.info, "dropped", cause="alpn")

    assert [line["event"] for line in seen.lines] == ["refused", "refused", "dropped"]


def test_what_happened_several_times_counts_so() -> None:
    clock = Clock()
    throttled = Throttle(clock.call_later)
    with events() as seen:
        throttled.write(log.info, "dropped", times=7)
        throttled.write(log.info, "dropped", times=5)
        throttled.write(log.info, "dropped")
        clock.pass_for(QUIET)

    assert [line["times"] for line in seen.of("dropped")] == [7, 6]


def test_however_many_causes_there_are_few_are_told_apart() -> None:
    clock = Clock()
    throttled = Throttle(clock.call_later)
    with events() as seen:
        for number in range(MOST + 100):
            throttled.write(log.info, "refused", cause=number, number=number)
        clock.pass_for(QUIET)

    *apart, rest = seen.of("refused")
    assert [line["number"] for line in apart] == list(range(MOST + 1))
    assert rest["times"] == 99
    clock.pass_for(QUIET)
    assert clock.idle


async def test_the_time_is_the_event_loops() -> None:
    with events() as seen:
        throttled = Throttle()
        for _ in range(3):
            throttled.write(log.info, "refused")
        await seen.wait("refused", times=2)

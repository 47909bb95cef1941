"""The clocks of files, from what was caused by what."""

from __future__ import annotations

import random

import pytest

from outrelay.tools.correlate.skew import ENOUGH, Sample, Skew, estimate

CONSUMER, RELAY, PROVIDER, TRAIL = range(4)
STREAMS = 30
AHEAD = {CONSUMER: 2000, RELAY: 0, PROVIDER: -70_000, TRAIL: 0}


def seen(
    sample: Sample, number: int, speaker: str, clock: int, at: int, event: str, **fields: object
) -> None:
    fields["event"] = event
    sample.add(f"{number:016x}", clock, at + AHEAD[clock], speaker, fields)


def streams(sample: Sample, *, debug: bool, number: int = STREAMS, wait: int = 0) -> None:
    """Streams whose steps take 1 to 20 ms each, and one ``wait`` longer."""
    chance = random.Random(7)
    for each in range(number):
        at = each * 1000
        steps = [chance.randint(1, 20) + wait for _ in range(5)]
        if debug:
            seen(sample, each, "agent", CONSUMER, at, "opening stream")
            seen(sample, each, "relay", RELAY, at + steps[0], "asking a provider")
            seen(sample, each, "agent", PROVIDER, at + sum(steps[:2]), "backend connected")
        seen(sample, each, "audit r1", TRAIL, at + sum(steps[:3]), "open")
        seen(sample, each, "relay", RELAY, at + sum(steps[:3]), "stream opened")
        for clock in (CONSUMER, PROVIDER):
            end = at + sum(steps[:4])
            seen(sample, each, "agent", clock, end, "stream opened")


def offsets(skew: Skew) -> dict[int, float]:
    return {clock: skew.offset(clock) for clock in AHEAD}


def test_both_directions_bound_an_offset() -> None:
    sample = Sample()
    streams(sample, debug=True)
    skew = estimate(sample, [RELAY])
    assert skew.reference == RELAY
    for clock in (CONSUMER, PROVIDER):
        found = skew.clocks[clock]
        assert found.error is not None
        assert found.error < 10
        assert abs(found.offset - AHEAD[clock]) <= found.error
    assert skew.offset(TRAIL) == 0


def test_one_direction_is_enough_where_the_fastest_of_many_was_fast() -> None:
    sample = Sample()
    streams(sample, debug=False)
    skew = estimate(sample, [RELAY])
    for clock in (CONSUMER, PROVIDER):
        assert skew.offset(clock) == pytest.approx(AHEAD[clock], abs=25)
        assert skew.clocks[clock].error == pytest.approx(250)


def test_few_streams_say_only_what_is_certain() -> None:
    """That the provider's clock is behind; the consumer's answer may have been slow."""
    sample = Sample()
    streams(sample, debug=False, number=ENOUGH - 1)
    skew = estimate(sample, [RELAY])
    assert skew.offset(CONSUMER) == 0
    assert skew.offset(PROVIDER) == pytest.approx(AHEAD[PROVIDER], abs=25)
    assert skew.clocks[PROVIDER].error is None


def test_equal_clocks_are_not_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AHEAD, CONSUMER, 0)
    monkeypatch.setitem(AHEAD, PROVIDER, 0)
    for debug in (True, False):
        sample = Sample()
        streams(sample, debug=debug)
        assert set(offsets(estimate(sample, [RELAY])).values()) == {0}


def test_a_clock_that_was_set_meanwhile_is_told_and_not_corrected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sample = Sample()
    streams(sample, debug=True)
    monkeypatch.setitem(AHEAD, CONSUMER, -2000)
    streams(sample, debug=True)
    skew = estimate(sample, [RELAY])
    assert not skew.clocks[CONSUMER].is_steady
    assert skew.offset(CONSUMER) == 0
    assert skew.clocks[PROVIDER].is_steady


def test_clocks_are_compared_through_others() -> None:
    """The trail alone: its relay's clock, and through that nothing of agents."""
    sample = Sample()
    for number in range(STREAMS):
        seen(sample, number, "agent", CONSUMER, 0, "opening stream")
        seen(sample, number, "relay", RELAY, 5, "stream refused")
        seen(sample, number, "agent", CONSUMER, 9, "open refused")
        seen(sample, number, "audit r1", TRAIL, 5, "reject")
    skew = estimate(sample, [TRAIL])
    assert skew.reference == TRAIL
    assert skew.clocks[RELAY].offset == 0
    assert skew.offset(CONSUMER) == pytest.approx(AHEAD[CONSUMER], abs=60)


def test_what_was_told_late_says_nothing() -> None:
    sample = Sample()
    for number in range(STREAMS):
        seen(sample, number, "relay", RELAY, 900, "stream refused", times=3)
        seen(sample, number, "agent", CONSUMER, 5, "open refused")
    assert estimate(sample) == Skew({})


def test_a_provider_that_answers_too_late_says_nothing() -> None:
    sample = Sample()
    for number in range(STREAMS):
        seen(sample, number, "relay", RELAY, 0, "stream opened")
        seen(sample, number, "agent", CONSUMER, 5, "incoming stream refused")
        seen(sample, number, "agent", PROVIDER, 0, "backend connected")
    assert estimate(sample) == Skew({})


def test_a_sample_is_of_the_same_streams_in_every_file() -> None:
    sample = Sample(most=100)
    chance = random.Random(3)
    ids = [f"{chance.getrandbits(64):016x}" for _ in range(500)]
    for clock, speaker, event in ((0, "relay", "stream opened"), (1, "agent", "stream opened")):
        for each in ids:
            if each < sample.bound:
                sample.add(each, clock, 10, speaker, {"event": event})
    kept = list(sample.streams())
    assert sum(map(len, kept)) <= 100
    assert len(kept) > 10
    assert all(len(moments) == 2 for moments in kept)

"""For how long watches have been behind."""

from __future__ import annotations

from outrelay.relay.lag import DIRECTORY, POLICY, Lag


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_behind_that_nobody_wants() -> None:
    assert Lag().seconds(POLICY) == 0


def test_a_watch_is_behind_until_it_is_let_in() -> None:
    clock = Clock()
    lag = Lag(clock)

    lag.behind(POLICY, "watch")
    clock.now += 3
    lag.behind(POLICY, "watch")  # once more, it tries again
    clock.now += 1

    assert lag.seconds(POLICY) == 4
    assert lag.seconds(DIRECTORY) == 0
    lag.caught_up(POLICY, "watch")
    assert lag.seconds(POLICY) == 0


def test_of_several_of_a_kind_the_worst_counts() -> None:
    clock = Clock()
    lag = Lag(clock)

    lag.behind(POLICY, "acme")
    clock.now += 5
    lag.behind(POLICY, "globex")

    assert lag.seconds(POLICY) == 5
    lag.caught_up(POLICY, "acme")
    assert lag.seconds(POLICY) == 0
    clock.now += 2
    assert lag.seconds(POLICY) == 2

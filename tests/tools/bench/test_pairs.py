"""Two sides move the same bytes in turn; what they used is compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from outrelay.tools.bench import routes
from outrelay.tools.bench.pairs import CPU, PairFailedError, Side, shares


def test_sides_take_turns_in_changing_order() -> None:
    turns: list[str] = []

    @contextmanager
    def turn(name: str) -> Iterator[None]:
        turns.append(name)
        yield

    with routes.backend() as (pid, at):
        first, second = (Side(at=at, meanwhile=partial(turn, name), pids=[pid]) for name in "ab")
        found = shares(first, second, rounds=1, amount=1 << 20)
    assert "".join(turns) == "baba" + "abab"  # one round to warm up
    assert found.keys() == {"up", "down", CPU}
    assert [len(values) for values in found.values()] == [1, 1, 2]
    assert all(value > 0 for values in found.values() for value in values)


def test_cpu_is_compared_only_where_it_is_asked_for() -> None:
    with routes.backend() as (_, at):
        assert shares(Side(at=at), Side(at=at), rounds=1, amount=1 << 20).keys() == {"up", "down"}


def test_a_load_that_breaks_off_is_told() -> None:
    nowhere = Side(at=("127.0.0.1", 9))
    with pytest.raises(PairFailedError, match="refused"):
        shares(nowhere, nowhere, rounds=1, amount=1)

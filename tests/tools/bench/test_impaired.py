"""Transfers over a long and lossy path: as much as the losses allow, and told when they fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from outrelay.tools.bench import impaired, path
from outrelay.tools.bench.impaired import Setting, TransferFailedError
from outrelay.tools.bench.scenarios import DIRECT


@pytest.fixture
def way() -> Iterator[path.Path]:
    if reason := path.missing():
        pytest.skip(reason)
    with path.path() as way:
        yield way


def test_a_setting_says_what_it_is() -> None:
    assert str(Setting(round_trip=0.1, loss=0.001)) == "100 ms, 0.1 % loss"
    bottleneck = Setting(round_trip=0.04, loss=0.0, rate=1e7)
    assert str(bottleneck) == "40 ms, 0 % loss, 10 MB/s"


def test_its_round_trip_is_shared_by_both_directions() -> None:
    impairment = Setting(round_trip=0.1, loss=0.001, rate=1e6, queue=5000).impairment(seed=7)
    assert impairment.delay == 0.05
    assert (impairment.loss, impairment.rate, impairment.queue) == (0.001, 1e6, 5000)
    assert impairment.seed == 7


def test_the_amount_is_what_losses_let_pass() -> None:
    setting = Setting(round_trip=0.1, loss=0.001)
    each_second = setting.amount(2.0, 0) - setting.amount(1.0, 0)
    assert each_second == pytest.approx(560_000, rel=0.01)  # 1.22 segments / (0.1 s * sqrt(0.001))
    assert setting.amount(0.0, 0) == 8 * 1448 * 1000
    assert Setting(round_trip=0.1, loss=0.0).amount(1.0, 99) == 99
    assert setting.lead == 5.0


@pytest.mark.netlab
def test_plain_tcp_alone_meets_the_same_losses_in_both_directions(tmp_path: Path) -> None:
    if reason := path.missing():
        pytest.skip(reason)
    setting = Setting(round_trip=0.002, loss=0.01)
    found = list(impaired.measure(tmp_path, [setting], [], rounds=1, seconds=0.0))
    assert [(each.direction, each.way, each.round) for each in found] == [
        ("up", DIRECT, 1), ("down", DIRECT, 1),
    ]  # fmt: skip
    for each in found:
        assert each.rate > 0
        assert each.counts[each.direction]["size"] > setting.amount(0.0, 0)
        assert each.counts[each.direction]["lost"] > 0


@pytest.mark.netlab
def test_a_transfer_that_nobody_takes_fails(way: path.Path) -> None:
    with pytest.raises(TransferFailedError, match="refused"):
        impaired._rate(way.far, (way.near.address, 9), "up", 1, 0.0)

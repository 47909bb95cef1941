"""Figures from measurements."""

from __future__ import annotations

import json

import pytest

from outrelay.tools.bench import summary
from outrelay.tools.bench.runner import Results
from outrelay.tools.bench.scenarios import CHAIN, MIB, QUIC, TCP
from tests.tools.bench.measurements import (
    ONE,
    PINGS,
    READINGS,
    SCENARIOS,
    SIXTEEN,
    everything,
    measured,
)


def test_rounds_become_one_figure() -> None:
    rounds = [measured(ONE, [rate], number=at) for at, rate in enumerate([9.0, 20.0, 14.0], 1)]
    (figure,) = summary.figures(SCENARIOS, rounds)
    assert (figure.median, figure.low, figure.high) == (14.0, 9.0, 20.0)
    assert figure.good
    assert figure.cpu_per_unit("relay") == pytest.approx(2.0 / (64 * MIB / 1e9))


def test_delays_have_a_p99_of_all_rounds() -> None:
    rounds = [measured(PINGS, [float(ms) for ms in range(at, 100, 2)], number=at) for at in (0, 1)]
    (figure,) = summary.figures(SCENARIOS, rounds)
    assert (figure.p99, figure.median) == (99.0, 49.5)
    assert not figure.good
    assert figure.cpu_per_unit("relay") == pytest.approx(2.0 / 400 * 1000)


def test_a_goal_can_be_a_share_of_another_scenario() -> None:
    one, sixteen = summary.figures(SCENARIOS, [measured(ONE, [20.0]), measured(SIXTEEN, [17.0])])
    assert (one.goal, sixteen.goal) == (12, 18.0)
    assert not sixteen.good
    (alone,) = summary.figures(SCENARIOS, [measured(SIXTEEN, [17.0])])
    assert alone.goal == 0


def test_a_goal_can_be_a_share_of_another_route() -> None:
    rounds = [measured(ONE, [18.0], TCP), measured(ONE, [20.0], CHAIN)]
    ours, chain = summary.figures(SCENARIOS, rounds)
    assert (ours.goal, chain.goal) == (18.0, 0)
    assert ours.good
    moved = 8 * 64 * MIB / 1e9  # faster routes get more
    assert ours.cpu == pytest.approx(3 * 2.0 / moved)


def test_memory_is_compared_with_what_it_was_at_rest() -> None:
    idle = {TCP: {"relay": 50 * MIB, "controller": 90 * MIB}}
    results = Results(idle_rss=idle, others_cores=0.1, measurements=everything())
    relay, controller = summary.memory(results)
    assert (relay.peak, relay.growth) == (60 * MIB, 10 * MIB)
    assert (controller.peak, controller.growth) == (90 * MIB, 0)


def test_the_document_is_json_and_holds_everything() -> None:
    results = Results(
        idle_rss={QUIC: {"relay": 70 * MIB}},
        others_cores=0.1,
        measurements=everything(),
        readings=READINGS,
    )
    written = summary.document(SCENARIOS, results, started="2026-01-01T00:00:00+00:00", rounds=1)
    read = json.loads(json.dumps(written))
    assert len(read["measurements"]) == 4 * len(SCENARIOS)
    assert read["summary"][0]["scenario"] == "upload"
    (relay,) = read["memory"]
    assert relay == {"route": "quic", "process": "relay", "idle": 70 * MIB, "peak": 70 * MIB}
    assert [each["good"] for each in read["capacity"]] == [False, False, False]
    assert [each["judged"] for each in read["capacity"]] == [20, 4, 3]
    assert read["machine"]["cores"] >= 1

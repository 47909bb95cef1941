"""Readings are judged by the value they are about, and every trial can be held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from _pytest.mark import ParameterSet

from outrelay.tools.bench import capacity
from outrelay.tools.bench.capacity import QUICK, TRIALS, At, Place, Reading, Trial
from outrelay.tools.deployment import TENANT, Deployment

LONG = ("outages", "cost of resuming", "observing")
"""Trials with deployments of their own, and that wait for what agents notice after seconds."""


def _param(trial: Trial) -> ParameterSet:
    marks = [pytest.mark.soak] if trial.name in LONG else []
    if trial.name == "impaired path":
        marks.append(pytest.mark.netlab)
    if trial.missing():
        marks.append(pytest.mark.skip(reason=trial.missing()))
    return pytest.param(trial, id=trial.name, marks=marks)


SIZE = replace(QUICK, agents=2, streams=5, rates={20: 1}, changes=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("capacity")
    with capacity.backend() as (_, backend), Deployment(directory) as deployment:
        deployment.make_certificates()
        deployment.start_controller()
        deployment.cli(
            *("policy", "add", "--tenant", TENANT, "--decision", "allow"),
            *("--caller", "*", "--target", capacity.SERVICE),
        )
        deployment.start_relay()
        deployment.start_provider({capacity.SERVICE: backend})
        at = deployment.start_consumer([capacity.SERVICE])[capacity.SERVICE]
        yield Place(deployment=deployment, directory=directory, at=at, backend=backend)


@pytest.mark.parametrize("trial", [*map(_param, TRIALS)])
def test_every_trial_can_be_held(place: Place, trial: Trial) -> None:
    readings = list(trial.hold(place, SIZE))
    assert readings
    assert not [each for each in readings if each.errors]
    # 0: a crowd of two may fit into memory that was there, and costs less than a tick
    assert all(each.judged > 0 for each in readings if "idle" not in each.name)


@pytest.mark.parametrize("name", ["opens a second", "streams at once"])
def test_a_trial_that_nobody_answers_fails(place: Place, name: str) -> None:
    (trial,) = (each for each in TRIALS if each.name == name)
    nowhere = replace(place, at=("127.0.0.1", 9))
    with pytest.raises(capacity.TrialFailedError, match=r"refused|Refused"):
        list(trial.hold(nowhere, replace(SIZE, streams=2)))


@pytest.mark.parametrize(
    ("at", "value"), [(At.LOWEST, 1), (At.MEDIAN, 50), (At.P99, 99), (At.HIGHEST, 99)]
)
def test_the_value_judged(at: At, value: float) -> None:
    values = [float(each) for each in range(99, 0, -1)]
    assert Reading(name="", unit="", values=values, goal=0, at=at).judged == value


@pytest.mark.parametrize(
    ("value", "at_least", "errors", "good"),
    [(5, False, [], True), (6, False, [], False), (5, True, [], True), (4, True, [], False),
     (1, False, ["reset"], False)],
)  # fmt: skip
def test_a_goal_is_reached_without_errors_only(
    value: float, at_least: bool, errors: list[str], good: bool
) -> None:
    reading = Reading(name="", unit="", values=[value], goal=5, at_least=at_least, errors=errors)
    assert reading.good is good

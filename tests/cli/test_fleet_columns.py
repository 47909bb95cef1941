"""How relays and agents read in tables."""

from __future__ import annotations

import pytest

from outrelay.cli.fleet_columns import features_of, services_of, since, state_of
from outrelay.lib.control.v1.registry_pb2 import AgentInfo, RelayInfo


@pytest.mark.parametrize(
    ("relay", "state"),
    [
        (RelayInfo(alive=True, attached_unix_ms=1), "up"),
        (RelayInfo(alive=True, attached_unix_ms=1, draining=True), "draining"),
        (RelayInfo(alive=True, draining=True), "gone"),
        (RelayInfo(alive=True), "away"),
        (RelayInfo(draining=True), "dead"),
    ],
)
def test_the_state_of_a_relay(relay: RelayInfo, state: str) -> None:
    assert state_of(relay) == state


def test_of_many_services_some_are_named() -> None:
    assert services_of(AgentInfo()) == ""
    assert services_of(AgentInfo(services=["a"], services_count=1)) == "a"
    assert services_of(AgentInfo(services=list("abcd"), services_count=7)) == "a, b, c +4"


def test_an_agent_without_features_is_plain() -> None:
    assert features_of(AgentInfo()) == "plain"
    assert features_of(AgentInfo(features=["a/1", "b/1"])) == "a/1 b/1"


def test_a_time_that_nobody_knows_is_nothing() -> None:
    assert since(0, 5000) == ""
    assert since(2000, 5000) == "3s"

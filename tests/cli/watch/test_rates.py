"""Rates between two samples."""

from __future__ import annotations

from outrelay.cli.watch.rates import Rate, Rates, between
from outrelay.cli.watch.sample import Sample
from outrelay.lib.control.v1.registry_pb2 import AgentInfo, RelayInfo, ServiceInfo
from tests.controller.fleet.scripted import stream
from tests.controller.live import AGENT_A, AGENT_B

KEY = ("acme", f"{1:016x}")


def sample(at_ms: int, up: int, down: int, **more: object) -> Sample:
    """A moment at which one stream of r1 had moved so much."""
    fields = {"bytes_up": up, "bytes_down": down, "relay_id": "r1", "opened_unix_ms": 10, **more}
    return Sample(taken_ms=at_ms, streams=[stream(1, **fields)])


def test_there_are_none_at_first_nor_where_no_time_has_passed() -> None:
    assert between(None, sample(1000, 1, 1)) == Rates()
    assert between(sample(1000, 1, 1), sample(1000, 5, 5)) == Rates()


def test_a_streams_rate_is_its_relays_and_both_agents() -> None:
    rates = between(sample(1000, 100, 200), sample(3000, 500, 200))
    assert rates.streams == {KEY: Rate(200.0, 0.0)}
    assert rates.relays == {"r1": Rate(200.0, 0.0)}
    assert rates.agents == {(AGENT_A, "r1"): Rate(200.0, 0.0), (AGENT_B, "r1"): Rate(0.0, 200.0)}
    assert rates.services == {("acme", "db", AGENT_B): Rate(200.0, 0.0)}
    assert rates.streams[KEY].total == 200.0


def test_what_has_no_stream_stands_still() -> None:
    rates = between(sample(1000, 100, 200), sample(3000, 500, 200))
    assert rates.of_relay(RelayInfo(id="r1")) == Rate(200.0, 0.0)
    assert rates.of_relay(RelayInfo(id="r2")) == Rate()
    assert rates.of_agent(AgentInfo(agent_uri=AGENT_B, relay_id="r1")) == Rate(0.0, 200.0)
    assert rates.of_agent(AgentInfo(agent_uri=AGENT_B, relay_id="r2")) == Rate()
    service = ServiceInfo(tenant="acme", service="db", agent_uri=AGENT_B)
    assert rates.of_service(service) == Rate(200.0, 0.0)
    assert rates.of_service(ServiceInfo(tenant="other", service="db")) == Rate()
    assert rates.of_stream(stream(1)) == Rate(200.0, 0.0)
    assert rates.of_stream(stream(2)) is None


def test_a_stream_seen_for_the_first_time_has_a_rate_only_if_it_is_new() -> None:
    empty = Sample(taken_ms=1000)
    assert between(empty, sample(2000, 50, 0)).streams == {}
    assert between(empty, sample(2000, 50, 0, opened_unix_ms=1500)).streams == {KEY: Rate(50.0)}


def test_a_counter_that_went_back_tells_nothing() -> None:
    assert between(sample(1000, 100, 0), sample(2000, 40, 7)).streams == {KEY: Rate(0.0, 7.0)}


def relay(at_ms: int, up: int, started: int = 5) -> Sample:
    return Sample(
        taken_ms=at_ms,
        relays=[RelayInfo(id="r1", bytes_up=up, started_unix_ms=started)],
        streams=sample(at_ms, 0, 0).streams,
    )


def test_what_a_relay_has_counted_goes_before_what_is_seen_of_its_streams() -> None:
    assert between(relay(1000, 10), relay(2000, 40)).relays == {"r1": Rate(30.0)}


def test_a_relay_that_has_begun_anew_is_known_by_its_streams() -> None:
    assert between(relay(1000, 10), relay(2000, 40, started=9)).relays == {"r1": Rate()}

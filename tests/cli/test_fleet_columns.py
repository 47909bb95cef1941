"""How relays and agents read in tables."""

from __future__ import annotations

import pytest
from rich.text import Text

from outrelay.cli import fleet_columns as columns
from outrelay.cli.fleet_columns import features_of, services_of, since, state_of
from outrelay.cli.output import print_table
from outrelay.cli.watch.rates import Rate
from outrelay.lib.control.v1.fleet_pb2 import StreamInfo
from outrelay.lib.control.v1.registry_pb2 import (
    SERVICE_STATE_LIVE,
    AgentInfo,
    RelayInfo,
    ServiceInfo,
)

URI = "outrelay://acme/agent/3f8a1c2d-0000-4000-8000-00000000000a"
NOW = 1_000_000_000


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


RELAY = RelayInfo(
    id="relay-1", region="eu-west", endpoint="relay-1.example.com:7443",
    tcp_endpoint="relay-1.example.com:443", alive=True, attached_unix_ms=1, agents=1200,
    streams=12_345, bytes_up=1 << 40, bytes_down=1 << 40, started_unix_ms=NOW - 100_000_000,
    certificate_not_after_unix_ms=NOW + 90 * 86_400_000, version="0.1.0",
)  # fmt: skip
AGENT = AgentInfo(
    agent_uri=URI, relay_id="relay-1", carrier="quic", since_unix_ms=NOW - 100_000_000,
    services=["web", "db", "cache"], services_count=5, serving=12, consuming=3,
    certificate_not_after_unix_ms=NOW + 90 * 86_400_000, address="203.0.113.77:54321",
    features=["goaway/1", "resume/2", "deregister/1"],
)  # fmt: skip
SERVICE = ServiceInfo(
    service="orders-db", agent_uri=URI, relay_id="relay-1", region="eu-west",
    state=SERVICE_STATE_LIVE, local_addr="10.0.0.17:5432", updated_unix_ms=NOW - 100_000_000,
    weight=1, priority=1,
)  # fmt: skip
STREAM = StreamInfo(
    stream_id="00f1e2d3c4b5a697", service="orders-db", method="GET", caller=URI, provider=URI,
    opened_unix_ms=NOW - 1000_000, bytes_up=1 << 40, bytes_down=1 << 40, relay_id="relay-1",
    path="relayed",
)  # fmt: skip
FAST = Rate(1023 * 2**20, 1023 * 2**20)


def _printed(rated: bool) -> None:
    def fast(_: object) -> Rate:
        return FAST

    rate_of = fast if rated else None
    print_table(columns.relays(NOW, rate_of), [RELAY])
    print_table(columns.agents(NOW, rate_of, tenants=False), [AGENT])
    print_table(columns.services(NOW, rate_of, tenants=False), [SERVICE])
    print_table(columns.streams(NOW, rate_of, tenants=False), [STREAM])


@pytest.mark.parametrize("rated", [False, True])
@pytest.mark.parametrize("width", [80, 90, 100, 110, 120, 160])
def test_at_a_terminal_a_row_is_a_line_or_two_and_nothing_is_cut(
    width: int, rated: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    _printed(rated)
    lines = Text.from_ansi(capsys.readouterr().out).plain.splitlines()
    assert all(len(line) <= width for line in lines)
    assert len(lines) <= 4 * 3
    text = "\n".join(lines)
    for whole in ("relay-1 ", "3f8a1c2d", "12 in, 3 out", "90d00h", "00f1e2d3c4b5a697", "1d03h"):
        assert whole in text
    assert text.count("1023.0 MiB") == (8 if rated else 0)


def test_what_was_not_looked_at_twice_has_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(columns.streams(NOW, lambda _: None, tenants=False), [STREAM])
    assert "/s" not in capsys.readouterr().out

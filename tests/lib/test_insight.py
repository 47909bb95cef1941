"""What the flags open, and what is wrong with them."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from outrelay.lib.errors import ConfigError
from outrelay.lib.insight import UNSEEN, Insight, Setting, insight_faults, opened
from outrelay.lib.observe.views import Views
from outrelay.lib.values import Address, parse_address
from tests.support.asking import ask
from tests.support.events import Events, events

ANY = ("127.0.0.1", 0)


@pytest.fixture
def seen() -> Iterator[Events]:
    """What is logged."""
    with events() as seen:
        yield seen


def views(*, expires: Callable[[], float | None] = lambda: 1000.0) -> Views:
    return Views(
        component="relay",
        registry=CollectorRegistry(),
        expires=expires,
        unready=lambda: ["too early"],
    )


def at(seen: Events, service: str) -> Address:
    (line,) = seen.of("listening", service=service)
    return parse_address(str(line["address"]))


async def test_both_listeners_are_open_and_say_where(seen: Events) -> None:
    config = {"drain": Setting(value="10s", source="default")}
    insight = Insight(debug_listen=ANY, health_listen=ANY, config=config)
    async with opened(insight, views()):
        shown = (await ask(at(seen, "debug"), "/debug/config")).json()
        assert shown == {"drain": {"value": "10s", "source": "default"}}
        assert (await ask(at(seen, "health"), "/readyz")).status == 503
        assert (await ask(at(seen, "health"), "/metrics")).status == 404


async def test_what_holds_for_every_service_is_counted(seen: Events) -> None:
    shown = views()
    async with opened(Insight(debug_listen=ANY), shown):
        text = (await ask(at(seen, "debug"), "/metrics")).text

    assert "outrelay_ready 0.0" in text
    assert "outrelay_certificate_not_after_timestamp_seconds 1000.0" in text


async def test_a_certificate_that_was_renewed_ends_later(seen: Events) -> None:
    ends = [1000.0]
    series = "outrelay_certificate_not_after_timestamp_seconds"
    async with opened(Insight(debug_listen=ANY), views(expires=lambda: ends[-1])):
        ends.append(2000.0)
        numbers = (await ask(at(seen, "debug"), "/debug/metrics")).json()
        status = (await ask(at(seen, "debug"), "/debug/status")).json()

    assert (numbers[series], status["certificate_not_after_unix_ms"]) == (2000, 2_000_000)


async def test_by_default_nothing_is_open_or_counted(seen: Events) -> None:
    shown = views()
    async with opened(UNSEEN, shown):
        assert seen.lines == []

    assert [*shown.registry.collect()] == []


async def test_a_debug_listener_on_a_network_is_warned_of(seen: Events) -> None:
    everywhere = ("0.0.0.0", 0)
    async with opened(Insight(debug_listen=everywhere, health_listen=everywhere), views()):
        pass

    (warning,) = [line for line in seen.lines if line["level"] == "warning"]
    assert warning["event"] == "debug listener on a network"


async def test_a_dump_has_a_line_from_the_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    async with opened(
        Insight(metrics_dump=path, metrics_interval=3600), views(expires=lambda: None)
    ):
        assert path.read_bytes() == b""

    (line,) = path.read_text().splitlines()
    numbers = json.loads(line)["metrics"]
    assert numbers["outrelay_ready"] == 0
    assert numbers["outrelay_certificate_not_after_timestamp_seconds"] == 0


async def test_a_dump_that_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--metrics-dump"):
        async with opened(Insight(metrics_dump=tmp_path), views()):
            pass


def test_an_interval_that_is_too_short_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--metrics-interval: is less than 0.1s"):
        Insight(metrics_interval=0.01)


def test_a_check_finds_what_could_not_be_opened(tmp_path: Path) -> None:
    with socket.create_server(ANY) as taken:
        busy = taken.getsockname()
        faults = insight_faults(
            Insight(debug_listen=busy, health_listen=busy, metrics_dump=tmp_path)
        )

    debug, health, dump = faults
    assert debug.startswith("--debug-listen: cannot listen on 127.0.0.1:")
    assert health.startswith("--health-listen: ")
    assert dump.startswith("--metrics-dump: ")
    assert insight_faults(Insight(debug_listen=ANY)) == []

"""Refused handshakes: counted all, logged once each, also in a flood."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from outrelay.lib.observe.metrics import CarrierMetrics
from outrelay.relay.edge.refusals import MOST_REMEMBERED, QUIET, Refusals


def test_a_flood_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    now = 0.0
    refusals = Refusals(CarrierMetrics(registry), monotonic=lambda: now)
    for port in range(10_000):
        refusals(("192.0.2.1", port), "no certificate")
    refusals(("192.0.2.1", 1), "another CA")
    refusals(("192.0.2.2", 1), "no certificate")
    assert caplog.text.count("handshake refused") == 3

    now += QUIET
    refusals(("192.0.2.1", 1), "no certificate")
    assert caplog.text.count("handshake refused") == 4
    counted = registry.get_sample_value(
        "outrelay_handshakes_refused_total", {"reason": "handshake"}
    )
    assert counted == 10_003


def test_what_is_remembered_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals(CarrierMetrics(CollectorRegistry()), monotonic=lambda: 0.0)
    for number in range(MOST_REMEMBERED + 1):
        refusals((f"host-{number}", 1), "no certificate")
    refusals(("host-0", 1), "no certificate")  # forgotten meanwhile

    assert caplog.text.count("handshake refused") == MOST_REMEMBERED + 2

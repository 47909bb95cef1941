"""What a declaration makes, and what the reference learns of it."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from outrelay.lib.observe.metrics.declare import (
    Catalogue,
    Declaration,
    counter,
    gauge,
    histogram,
)


@pytest.mark.parametrize("registry", [CollectorRegistry(), Catalogue()])
def test_metrics_have_the_names_they_are_declared_with(registry: CollectorRegistry) -> None:
    counter(registry, "calls_total", "Calls.", {"code": "of each"}, todo="-").labels("OK").inc()
    gauge(registry, "open_streams", "Streams.", todo="-").set(3)
    histogram(registry, "wait_seconds", "Waits.", buckets=(0.1, 1.0), todo="-").observe(0.5)

    value = registry.get_sample_value
    assert value("calls_total", {"code": "OK"}) == 1
    assert value("open_streams") == 3
    assert [value("wait_seconds_bucket", {"le": le}) for le in ("0.1", "1.0", "+Inf")] == [0, 1, 1]


def test_what_a_label_usually_is_begins_with_nothing() -> None:
    registry = CollectorRegistry()
    calls = counter(registry, "calls_total", "Calls.", {"code": "x"}, todo="-", known=("OK", "NO"))
    calls.labels("NO").inc()
    calls.labels("ODD").inc()

    value = registry.get_sample_value
    codes = ("OK", "NO", "ODD", "NONE")
    assert [value("calls_total", {"code": code}) for code in codes] == [0, 1, 1, None]


def test_a_catalogue_knows_what_was_declared() -> None:
    catalogue = Catalogue()

    counter(catalogue, "calls_total", "Calls.", {"code": "of each"}, todo="Answer.")
    gauge(catalogue, "open_streams", "Streams.", todo="Count.")
    histogram(catalogue, "wait_seconds", "Waits.", buckets=(1.0,), todo="Wait.")

    first, *others = catalogue.declared
    assert first == Declaration(
        name="calls_total",
        kind="counter",
        text="Calls.",
        labels={"code": "of each"},
        todo="Answer.",
    )
    assert [(each.name, each.kind) for each in others] == [
        ("open_streams", "gauge"),
        ("wait_seconds", "histogram"),
    ]

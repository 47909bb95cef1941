"""The numbers as text and as series."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Gauge

from outrelay.lib.observe.exposition import series_of, text_of


def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    gauge = Gauge("depth", "Depth.", ["of", "where"], registry=made)
    gauge.labels("queue", 'a\\b"c\nd').set(2)
    gauge.labels("queue", "lost").set(math.nan)
    Gauge("plain", "Plain.", registry=made).set(0.5)
    return made


def test_series_are_named_as_prometheus_names_them() -> None:
    assert series_of(registry()) == {
        'depth{of="queue",where="a\\\\b\\"c\\nd"}': 2.0,
        "plain": 0.5,
    }


def test_text_has_the_same_names() -> None:
    made = registry()
    text, media_type = text_of(made)

    assert media_type.startswith("text/plain")
    lines = text.decode().splitlines()
    assert all(f"{name} {value}" in lines for name, value in series_of(made).items())

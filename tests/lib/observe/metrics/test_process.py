"""The numbers every service has."""

from __future__ import annotations

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry

from outrelay import __version__
from outrelay.lib.observe.metrics import process
from outrelay.lib.observe.metrics.process import ProcessMetrics
from outrelay.lib.tasks import beside
from tests.support.patience import PATIENCE


def test_the_build_is_named() -> None:
    registry = CollectorRegistry()
    ProcessMetrics(registry)

    assert registry.get_sample_value("outrelay_build_info", {"version": __version__}) == 1


async def test_a_loop_that_is_held_up_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOOK", 0.001)
    registry = CollectorRegistry()
    metrics = ProcessMetrics(registry)

    def looks(upper: str) -> float:
        series = "outrelay_event_loop_lag_seconds_bucket"
        return registry.get_sample_value(series, {"le": upper}) or 0

    async with asyncio.timeout(PATIENCE):
        async with beside(metrics.watch_loop(), name="watch"):
            while not looks("+Inf") - looks("0.1"):
                time.sleep(0.15)  # noqa: ASYNC251 - it holds the loop up
                await asyncio.sleep(0.002)

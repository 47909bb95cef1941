"""Whom the relay turned away: all are counted, a flood is a few lines."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from outrelay.lib.observe.metrics import CarrierMetrics
from outrelay.lib.observe.throttle import Throttle
from outrelay.lib.transport.refusal import Cause, Refusal
from outrelay.relay.edge.refusals import Refusals
from tests.support.events import events


class Place:
    """Refusals whose second never ends, and what they counted."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        throttle = Throttle(lambda _delay, _work: None)
        self.refusals = Refusals(CarrierMetrics(self.registry), throttle)

    def metric(self, name: str, cause: Cause) -> float | None:
        return self.registry.get_sample_value(f"outrelay_{name}_total", {"reason": cause})


@pytest.mark.parametrize("cause", [Cause.CERTIFICATE, Cause.TIMEOUT, Cause.SOURCE_LIMIT])
def test_refused_handshakes(cause: Cause) -> None:
    place = Place()
    with events() as seen:
        for number in range(10_000):
            place.refusals(Refusal(cause, (f"192.0.2.{number % 256}", number), "a long story"))

    (line,) = seen.of("handshake refused", level="warning")
    assert (line["address"], line["reason"]) == ("192.0.2.0:0", "a long story")
    assert place.metric("handshakes_refused", cause) == 10_000
    assert place.metric("datagrams_dropped", cause) is None


@pytest.mark.parametrize("cause", [Cause.NOISE, Cause.VERSION, Cause.FORGOTTEN, Cause.PROOF])
def test_datagrams_that_begin_nothing(cause: Cause) -> None:
    place = Place()
    with events() as seen:
        place.refusals(Refusal(cause, ("192.0.2.1", 1), times=70_000))
        place.refusals(Refusal(cause, ("192.0.2.1", 1), times=30_000))

    (line,) = seen.of("datagrams dropped", level="info")
    assert (line["reason"], line["times"]) == (cause, 70_000)
    assert place.metric("datagrams_dropped", cause) == 100_000
    assert place.metric("handshakes_refused", cause) is None


def test_each_cause_is_a_line_of_its_own() -> None:
    place = Place()
    with events() as seen:
        for cause in Cause:
            place.refusals(Refusal(cause, ("192.0.2.1", 1)))

    assert len(seen.lines) == len(Cause)

"""The picture shows every scenario, on a scale our own results set."""

from __future__ import annotations

from xml.etree import ElementTree

from outrelay.tools.bench import plot, summary
from outrelay.tools.bench.scenarios import Unit
from tests.tools.bench.measurements import ONE, READINGS, SCENARIOS, everything


def test_the_picture_is_well_formed_and_holds_every_scenario() -> None:
    picture = plot.svg(summary.figures(SCENARIOS, everything()), READINGS, "a <caption>")
    texts = [text.text for text in ElementTree.fromstring(picture).iter() if text.text]
    assert {scenario.name for scenario in SCENARIOS} <= set(texts)
    assert "a <caption>" in texts
    assert "10.0 OutRelay, QUIC" in texts
    assert "20.0 OutRelay, TCP" in texts
    assert "30.0 stunnel chain" in texts
    assert "300.0 direct TCP →" in texts  # off the scale
    assert {reading.name for reading in READINGS} <= set(texts)
    assert "20 (≤ 100 ms)" in texts


def test_the_picture_of_one_unit_has_one_panel() -> None:
    rates = [each for each in everything() if each.scenario == ONE.name]
    picture = plot.svg(summary.figures(SCENARIOS, rates), [], "")
    assert Unit.DELAY + "," not in picture

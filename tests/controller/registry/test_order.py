"""The order of providers: region, priority, then by weight."""

from __future__ import annotations

from collections import Counter
from random import Random

from outrelay.controller.registry.order import in_order
from outrelay.controller.store import Binding, Service
from tests.controller.live import AGENT_A


def binding(name: str, *, region: str = "local", priority: int = 0, weight: int = 0) -> Binding:
    service = Service(
        tenant="acme",
        name=name,
        agent_uri=AGENT_A,
        relay_id="r1",
        priority=priority,
        weight=weight,
    )
    return Binding(
        service=service, updated_ms=0, revision=1, region=region, relay_endpoint="", healthy=True
    )


def names(bindings: list[Binding], *, region: str = "", seed: int = 0) -> list[str]:
    ordered = in_order(bindings, region=region, random=Random(seed).random)
    return [each.service.name for each in ordered]


def test_the_callers_region_comes_before_any_priority() -> None:
    far = binding("far", region="eu", priority=0)
    near = binding("near", region="us", priority=9)
    assert names([far, near], region="us") == ["near", "far"]
    assert names([far, near], region="") == ["far", "near"]


def test_the_lowest_priority_number_comes_before_any_weight() -> None:
    bindings = [binding("second", priority=2, weight=1000), binding("first", priority=1)]
    assert names(bindings) == ["first", "second"]


def first_places(*bindings: Binding, times: int = 2000) -> Counter[str]:
    return Counter(names(list(bindings), seed=seed)[0] for seed in range(times))


def test_equals_are_taken_equally_often() -> None:
    first = first_places(binding("a"), binding("b"), binding("c", weight=1))
    assert all(550 < first[name] < 780 for name in "abc")


def test_a_weight_is_a_share() -> None:
    first = first_places(binding("a", weight=3), binding("b", weight=1))
    assert 1400 < first["a"] < 1600

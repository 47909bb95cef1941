"""The decisions that are timed are those they are said to be."""

from __future__ import annotations

from outrelay.lib.policy import PolicySet
from outrelay.tools.bench import decisions


def test_rules_are_of_every_kind() -> None:
    rules = list(decisions.rules(1_000))
    assert len(PolicySet(rules)) == 1_000
    targets = [rule.target_pattern for rule in rules]
    assert sum(target.startswith("*") for target in targets) == 5
    assert sum(rule.speaks_for_provider for rule in rules) == 100
    assert sum("*" not in target for target in targets) == 700


def test_a_hit_is_dearer_than_nothing_and_cheaper_than_a_miss() -> None:
    misses, hits = decisions.measure(1_000, 300)
    assert len(misses) == len(hits) == 300
    assert min(hits) > 0
    assert sorted(misses)[150] > sorted(hits)[150]

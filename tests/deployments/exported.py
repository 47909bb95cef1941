"""What the programs export to Prometheus, and what a query uses of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from prometheus_client import CollectorRegistry

from outrelay.lib.observe.metrics import (
    AgentMetrics,
    ControllerMetrics,
    RelayMetrics,
    new_registry,
)
from outrelay.lib.observe.metrics.process import ProcessMetrics

JOBS: Mapping[str, Callable[[CollectorRegistry], object]] = {
    "outrelay-controller": ControllerMetrics.on,
    "outrelay-relay": RelayMetrics.on,
    "outrelay-agent": AgentMetrics.on,
}
GIVEN = frozenset({"job", "instance", "namespace", "pod", "le"})
"""Labels that Prometheus adds, and that of a histogram's buckets."""

_ENDINGS = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("", "_sum", "_count"),
}
_SELECTOR = re.compile(r"\b((?:outrelay|process|python|up)\w*)(\{[^}]*\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_BY = re.compile(r"\bby\s*\(([^)]*)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """A metric in a query, and by which labels it is chosen: label to operator and value."""

    name: str
    matchers: Mapping[str, tuple[str, str]]

    def jobs(self) -> list[str]:
        """The programs that it may be about."""
        operator, value = self.matchers.get("job", ("=~", ".*"))
        pattern = value if operator == "=~" else re.escape(value)
        return [job for job in JOBS if re.fullmatch(pattern, job)]


def registry(job: str) -> CollectorRegistry:
    """What a program declares."""
    made = new_registry()
    ProcessMetrics(made)
    JOBS[job](made)
    return made


@cache
def exported(job: str) -> Mapping[str, frozenset[str]]:
    """The series of a program: their names and labels."""
    declares = registry(job)
    named = {"up": frozenset[str]()}
    for family in declares.collect():
        labels = {label for sample in family.samples for label in sample.labels}
        declared = getattr(declares._names_to_collectors.get(family.name), "_labelnames", ())
        for ending in _ENDINGS[family.type]:
            named[family.name + ending] = frozenset(labels) | frozenset(declared)
    return named


def selectors(query: str) -> Iterator[Selector]:
    """The metrics that a query uses."""
    for name, braces in _SELECTOR.findall(query):
        found = {label: (operator, value) for label, operator, value in _MATCHER.findall(braces)}
        yield Selector(name=name, matchers=found)


def faults(query: str) -> list[str]:
    """What a query uses that no program exports, one line each."""
    used = list(selectors(query))
    lines = [
        f"{each.name} is not exported by {each.jobs() or each.matchers}"
        for each in used
        if not any(each.name in exported(job) for job in each.jobs())
    ]
    lines += [
        f"{each.name} has no label {label}"
        for each in used
        for label in each.matchers.keys() - labels_of(each) - GIVEN
    ]
    there = GIVEN.union(*(labels_of(each) for each in used))
    return lines + [f"nothing has a label {label}" for label in grouped_by(query) - there]


def labels_of(selector: Selector) -> frozenset[str]:
    """The labels of a metric, at whichever program it is."""
    return frozenset[str]().union(*(exported(job).get(selector.name, ()) for job in JOBS))


def grouped_by(query: str) -> set[str]:
    """The labels in the ``by`` of a query."""
    return {label.strip() for names in _BY.findall(query) for label in names.split(",")}

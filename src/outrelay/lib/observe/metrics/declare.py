"""How a metric is declared: what it is, what its labels mean, and what to do about it.

    self.open = gauge(
        registry,
        "outrelay_streams_open",
        "Streams that are spliced.",
        todo="Nothing by itself; with the relay's limits it tells when to add a relay.",
    )

The page ``docs/reference/metrics.md`` is made of the declarations. Names are written as
Prometheus has them, in base units, those of counters with ``_total``.

Invariant: a label takes its values from a small fixed set, never from what a peer sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Labels = Mapping[str, str]
"""What each label means, and which values it takes."""

NO_LABELS: Labels = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What there is to say of one metric.

    Args:
        name: As Prometheus has it.
        kind: counter, gauge or histogram.
        text: What it is.
        labels: What its labels mean.
        todo: What to do about it.
    """

    name: str
    kind: str
    text: str
    labels: Labels
    todo: str


class Catalogue(CollectorRegistry):
    """A registry that knows how its metrics were declared."""

    def __init__(self) -> None:
        super().__init__()
        self.declared: list[Declaration] = []
        """In the order of their declaration."""


def counter(
    registry: CollectorRegistry,
    name: str,
    text: str,
    labels: Labels = NO_LABELS,
    *,
    todo: str,
    known: Sequence[str] = (),
) -> Counter:
    """Declare a number that only grows.

    Args:
        registry: Where it goes.
        name: See ``Declaration``.
        text: See ``Declaration``.
        labels: See ``Declaration``.
        todo: See ``Declaration``.
        known: Values of its one label that are 0 from the start: of a series that appears with
            1, Prometheus sees no increase.
    """
    _note(registry, name, "counter", text, labels, todo)
    made = Counter(name, text, list(labels), registry=registry)
    for value in known:
        made.labels(value)
    return made


def gauge(
    registry: CollectorRegistry, name: str, text: str, labels: Labels = NO_LABELS, *, todo: str
) -> Gauge:
    """Declare a number that rises and falls; arguments as ``Declaration``."""
    _note(registry, name, "gauge", text, labels, todo)
    return Gauge(name, text, list(labels), registry=registry)


def histogram(
    registry: CollectorRegistry,
    name: str,
    text: str,
    *,
    buckets: Sequence[float],
    todo: str,
) -> Histogram:
    """Declare a number of which it matters how often it is how large.

    Args:
        registry: Where it goes.
        name: See ``Declaration``.
        text: See ``Declaration``.
        buckets: Upper bounds that are told apart, in the metric's unit.
        todo: See ``Declaration``.
    """
    _note(registry, name, "histogram", text, NO_LABELS, todo)
    return Histogram(name, text, buckets=buckets, registry=registry)


def _note(
    registry: CollectorRegistry, name: str, kind: str, text: str, labels: Labels, todo: str
) -> None:
    if isinstance(registry, Catalogue):
        noted = Declaration(name=name, kind=kind, text=text, labels=labels, todo=todo)
        registry.declared.append(noted)

"""The numbers of a registry as others read them: Prometheus' text, and plain JSON.

Words: a *series* is a metric with its labels, written as Prometheus writes it:
``outrelay_streams_ended_total{result="closed"}``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import choose_encoder

disable_created_metrics()  # type: ignore[no-untyped-call]  # when each began, nobody asks

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def text_of(registry: CollectorRegistry, accepted: str = "") -> tuple[bytes, str]:
    """Everything in ``registry``, for Prometheus, and which media type that is.

    Args:
        registry: Where the numbers are.
        accepted: The Accept header of who asks; empty: Prometheus' plain text.
    """
    encode, media_type = choose_encoder(accepted)
    return encode(registry), media_type


def series_of(registry: CollectorRegistry) -> dict[str, float]:
    """Every series of ``registry`` and its value; those that are no number are left out."""
    return {
        _series(sample.name, sample.labels): sample.value
        for family in registry.collect()
        for sample in family.samples
        if math.isfinite(sample.value)
    }


def _series(name: str, labels: Mapping[str, str]) -> str:
    if not labels:
        return name
    pairs = (f'{key}="{value.translate(_ESCAPES)}"' for key, value in labels.items())
    return f"{name}{{{','.join(pairs)}}}"

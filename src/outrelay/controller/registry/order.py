"""In which order a caller should try the providers of a service.

Source: control-plane.md, Registry, Resolve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from outrelay.controller.store import Binding


def in_order(
    bindings: Iterable[Binding], *, region: str, random: Callable[[], float]
) -> list[Binding]:
    """The caller's region first, then the lowest priority number, then at random by weight.

    A binding of twice the weight comes before another one twice as often. Weight 0, which is
    what a relay sends that knows of none, counts as 1.

    Args:
        bindings: The live ones.
        region: The caller's; empty: no preference.
        random: Numbers from 0 to 1, 1 excluded.
    """

    def rank(binding: Binding) -> tuple[bool, int, float]:
        service = binding.service
        elsewhere = region not in ("", binding.region)
        # Of variables distributed as 1 - u ** (1 / weight), the smallest is each one's with a
        # probability that is its share of the weights (Efraimidis and Spirakis).
        draw = 1 - random() ** (1 / (service.weight or 1))
        return elsewhere, service.priority, draw

    return sorted(bindings, key=rank)

"""Two deployments that differ in one thing, or one in two states, move the same bytes in turn.

Each pair of measurements gives a *share*, what the first moved of what the second did, so that
a slow moment of the machine meets both.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from outrelay.lib.errors import OutRelayError
from outrelay.lib.values import Address
from outrelay.tools.bench import routes

_PATIENCE = 300.0


class PairFailedError(OutRelayError):
    """The load broke off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two deployments, or states.

    Args:
        at: Where its consumer listens for the load.
        meanwhile: What goes on while it is measured.
    """

    at: Address
    meanwhile: Callable[[], AbstractContextManager[object]] = nullcontext


def shares(first: Side, second: Side, *, rounds: int, amount: int) -> Mapping[str, Sequence[float]]:
    """Throughput of the first as a share of the second's, by direction (``up``, ``down``).

    Args:
        first: The one with what is to cost little.
        second: The one without.
        rounds: Measurements of each, after one that warms up.
        amount: Bytes of each.

    Raises:
        PairFailedError: The load did.
    """
    found: dict[str, list[float]] = {"up": [], "down": []}
    for number in range(rounds + 1):
        for direction, values in found.items():
            order = (first, second) if number % 2 else (second, first)
            rates = [_rate(side, direction, amount) for side in order]
            if number:
                of_first, of_second = rates if number % 2 else reversed(rates)
                values.append(of_first / of_second)
    return found


def _rate(side: Side, direction: str, amount: int) -> float:
    """Bytes a second."""
    with side.meanwhile():
        done = subprocess.run(
            [*routes.LOAD, direction, str(side.at[1]), "1", str(amount)],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    if done.returncode:
        raise PairFailedError(done.stderr.strip().splitlines()[-1])
    return float(json.loads(done.stdout)["values"][0])

"""Two deployments that differ in one thing, or one in two states, move the same bytes in turn.

Each pair of measurements gives a *share*, what the first moved of what the second did, so that
a slow moment of the machine meets both. What their processes used of the CPU is a share, too: where
other programs are at work meanwhile, that says more.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from outrelay.lib.errors import OutRelayError
from outrelay.lib.values import Address
from outrelay.tools.bench import procfs, routes

CPU = "CPU"
_PATIENCE = 300.0
_TICK = 0.01
"""Seconds below which the system counts no CPU."""


class PairFailedError(OutRelayError):
    """The load broke off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two deployments, or states.

    Args:
        at: Where its consumer listens for the load.
        meanwhile: What goes on while it is measured.
        pids: Processes whose CPU is compared; none: it is not.
    """

    at: Address
    meanwhile: Callable[[], AbstractContextManager[object]] = nullcontext
    pids: Sequence[int] = ()


def shares(first: Side, second: Side, *, rounds: int, amount: int) -> Mapping[str, Sequence[float]]:
    """Shares of the second's throughput that the first has, by direction (``up``, ``down``).

    With pids there is ``CPU``: the share of the second's for the same bytes.

    Args:
        first: The one with what is to cost little.
        second: The one without.
        rounds: Measurements of each, after one that warms up.
        amount: Bytes of each.

    Raises:
        PairFailedError: The load did.
    """
    found: dict[str, list[float]] = {"up": [], "down": []}
    if first.pids:
        found[CPU] = []
    for number in range(rounds + 1):
        for direction in ("up", "down"):
            order = (first, second) if number % 2 else (second, first)
            measured = [_measure(side, direction, amount) for side in order]
            if number:
                of_first, of_second = measured if number % 2 else reversed(measured)
                found[direction].append(of_first.rate / of_second.rate)
                if first.pids:
                    found[CPU].append(of_first.cpu_seconds / of_second.cpu_seconds)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """Bytes a second, and what the processes used for them."""

    rate: float
    cpu_seconds: float


def _measure(side: Side, direction: str, amount: int) -> _Measured:
    with side.meanwhile():
        before = _cpu(side.pids)
        rate = _rate(side, direction, amount)
        return _Measured(rate=rate, cpu_seconds=max(_cpu(side.pids) - before, _TICK))


def _cpu(pids: Sequence[int]) -> float:
    return sum(procfs.usage(pid).cpu_seconds for pid in pids)


def _rate(side: Side, direction: str, amount: int) -> float:
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

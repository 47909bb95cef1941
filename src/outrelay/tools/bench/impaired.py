"""One stream over a long and lossy path, beside plain TCP over the same one.

    load, consumer's agent -- path -- relay, provider's agent, backend
    load ------------------- path --------------------------- backend

Uploads are sent by the agent's engine and downloads by the relay's; plain TCP has the kernel's
Cubic. What counts is the rate they find, not how they begin: the clock runs after a *lead*. In
each round all meet the same losses: the n-th packet of a direction is lost for everybody, or
for nobody.

Source: performance.md; for the rate that losses allow: Mathis et al., 1997.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from outrelay.lib.errors import OutRelayError
from outrelay.lib.values import Address, address_text
from outrelay.tools.bench import path, routes
from outrelay.tools.bench.scenarios import DIRECT, MIB
from outrelay.tools.bench.wire import Impairment
from outrelay.tools.deployment import Carrier, Deployment, Site

DIRECTIONS = ("up", "down")

_PATIENCE = 600.0
_SEGMENT = 1448
"""Bytes of payload in a packet of TCP."""
_LEAD = 50
"""Round trips after which a connection has found its rate."""
_OVERSHOOT = 8
"""Packets that it has sent until then, at most about; times those to a loss."""


class TransferFailedError(OutRelayError):
    """A transfer broke off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the path is like.

    Args:
        round_trip: Seconds.
        loss: Probability that a packet is lost, each way.
        rate: Bytes a second that fit through it, each way; 0 is any.
        queue: Bytes that wait where more come; the rest is lost.
    """

    round_trip: float
    loss: float
    rate: float = 0.0
    queue: int = 1 << 20

    def __str__(self) -> str:
        rate = f", {self.rate / 1e6:g} MB/s" if self.rate else ""
        return f"{self.round_trip * 1e3:g} ms, {self.loss * 100:g} % loss{rate}"

    def impairment(self, seed: int) -> Impairment:
        """The same, for ``wire``."""
        delay = self.round_trip / 2
        return Impairment(delay=delay, loss=self.loss, rate=self.rate, queue=self.queue, seed=seed)

    def amount(self, seconds: float, lossless: int) -> int:
        """Bytes that a flow of TCP moves in so many seconds; ``lossless`` where nothing is lost."""
        if not self.loss:
            return lossless
        rate = math.sqrt(3 / 2) * _SEGMENT / (self.round_trip * math.sqrt(self.loss))
        return int(rate * seconds + _OVERSHOOT * _SEGMENT / self.loss)

    @property
    def lead(self) -> float:
        """Seconds that do not count."""
        return _LEAD * self.round_trip


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A deployment to measure.

    Args:
        name: What to call it.
        carrier: Between agents and relay.
        flags: Further ones for relay and agents.
    """

    name: str
    carrier: Carrier = Carrier.QUIC
    flags: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One that was measured.

    Args:
        setting: Of the path.
        direction: ``up`` or ``down``.
        way: A variant's name, or ``direct``.
        round: From 1.
        rate: Bytes a second, by the receiver's clock.
        counts: What became of the packets.
    """

    setting: Setting
    direction: str
    way: str
    round: int
    rate: float
    counts: path.Counts


def measure(
    directory: Path,
    settings: Sequence[Setting],
    variants: Sequence[Variant],
    *,
    rounds: int,
    seconds: float,
    lossless: int = 64 * MIB,
    seed: int = 0,
) -> Iterator[Transfer]:
    """Measure each variant and plain TCP, in turn.

    Args:
        directory: An empty one.
        settings: Of the path, one after the other.
        variants: What to measure.
        rounds: Measurements of each.
        seconds: How long a transfer of TCP is to take, about.
        lossless: Bytes of a transfer where nothing is lost.
        seed: Of all that is lost.

    Raises:
        PathFailedError: The path could not be laid.
        TransferFailedError: A transfer broke off.
    """
    with path.path() as way, routes.backend(way.near.address, way.near.within) as (_, backend):
        for setting in settings:
            amount = setting.amount(seconds, lossless)
            with _ends(directory, variants, way, backend) as ends:
                meet = _Meeting(way, setting, ends, seed)
                for number in range(1, rounds + 1):
                    yield from meet.round(number, amount)


@contextmanager
def _ends(
    directory: Path, variants: Sequence[Variant], way: path.Path, backend: Address
) -> Iterator[Mapping[str, Address]]:
    """Where the load connects for each: connections that have seen no other setting."""
    with ExitStack() as stack, tempfile.TemporaryDirectory(dir=directory) as own:
        running = {
            each.name: stack.enter_context(_running(Path(own), each, way, backend))
            for each in variants
        }
        yield {DIRECT: backend, **running}


@dataclass(frozen=True, slots=True)
class _Meeting:
    """All that are measured in one setting."""

    way: path.Path
    setting: Setting
    ends: Mapping[str, Address]
    seed: int

    def round(self, number: int, size: int) -> Iterator[Transfer]:
        """Each of them once in both directions; every other round in the opposite order."""
        for direction in DIRECTIONS:
            for name in list(self.ends)[:: 1 if number % 2 else -1]:
                yield self._transfer(number, direction, name, size)

    def _transfer(self, number: int, direction: str, name: str, size: int) -> Transfer:
        self.way.become(self.setting.impairment(seed=self.seed + 2 * number))
        rate = _rate(self.way.far, self.ends[name], direction, size, self.setting.lead)
        return Transfer(
            setting=self.setting,
            direction=direction,
            way=name,
            round=number,
            rate=rate,
            counts=self.way.become(Impairment()),
        )


@contextmanager
def _running(
    directory: Path, variant: Variant, way: path.Path, backend: Address
) -> Iterator[Address]:
    """Where the consumer of a deployment listens."""
    (own := directory / variant.name).mkdir()
    site = Site(relay=way.near.address, near=way.near.within, far=way.far.within)
    with Deployment(
        own,
        carrier=variant.carrier,
        flags=variant.flags,
        site=site,
    ) as deployment:
        yield routes.start(deployment, {routes.SERVICE: backend})[routes.SERVICE]


def _rate(far: path.End, at: Address, direction: str, size: int, lead: float) -> float:
    """Bytes a second."""
    done = subprocess.run(
        [*far.within, *routes.LOAD, direction, address_text(at), *map(str, (1, size, lead))],
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode:
        raise TransferFailedError(done.stderr.strip().splitlines()[-1])
    return float(json.loads(done.stdout)["values"][0])

"""How much OutRelay carries: many agents, many streams, many opens, many rules.

Words: a *trial* measures one such thing in the running deployment, or in one of its own; a
*reading* is one of the numbers it comes to. Where ``scenarios`` ask how fast one thing is
beside direct TCP, trials ask what happens when there are many, and have goals of their own.

Source: performance.md.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from outrelay.lib.errors import OutRelayError
from outrelay.lib.values import Address, address_text
from outrelay.tools.bench import (
    audit,
    decisions,
    impaired,
    large,
    observing,
    outages,
    path,
    procfs,
    rings,
)
from outrelay.tools.bench.impaired import Setting, Variant
from outrelay.tools.bench.pairs import CPU
from outrelay.tools.bench.scenarios import DIRECT, QUIC
from outrelay.tools.deployment import Carrier, Deployment

SERVICE = "load-swarm"
"""Leads to the echoing backend."""

_MODULE = "outrelay.tools.bench."
_SWARM = (sys.executable, "-m", _MODULE + "swarm")
_CROWD = (sys.executable, "-m", _MODULE + "crowd")
_PATIENCE = 300.0
_SETTLE = 3.0
"""Seconds until agents that have just come are at rest."""

KIB = 1 << 10


class TrialFailedError(OutRelayError):
    """A trial could not be carried out, or what it moved was damaged."""


class At(StrEnum):
    """Which of a reading's values is judged."""

    LOWEST = "lowest"
    MEDIAN = "median"
    P99 = "p99"
    HIGHEST = "highest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A number a trial comes to, or many of a kind.

    Args:
        name: What it is.
        unit: What it is counted in.
        values: At least one.
        goal: What the value judged is to be.
        at: Which value that is.
        at_least: Whether it is to be at least the goal; else at most.
        is_aim: The goal is one to work towards; missing it is no failure.
        errors: What went wrong meanwhile; with any the goal is missed.
        note: More for people.
    """

    name: str
    unit: str
    values: Sequence[float]
    goal: float
    at: At = At.MEDIAN
    at_least: bool = False
    is_aim: bool = False
    errors: Sequence[str] = ()
    note: str = ""

    def value(self, at: At) -> float:
        """One of the values, by its place among them."""
        values = sorted(self.values)
        match at:
            case At.LOWEST:
                return values[0]
            case At.MEDIAN:
                return statistics.median(values)
            case At.P99:
                return values[min(len(values) - 1, len(values) * 99 // 100)]
            case At.HIGHEST:
                return values[-1]

    @property
    def judged(self) -> float:
        """The value the goal is about."""
        return self.value(self.at)

    @property
    def good(self) -> bool:
        """Whether the goal is reached."""
        reached = self.judged >= self.goal if self.at_least else self.judged <= self.goal
        return reached and not self.errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where trials are held.

    Args:
        deployment: Everything runs, and its consumer listens for SERVICE.
        directory: Of the deployment.
        at: Where the consumer listens for SERVICE.
        backend: Where SERVICE leads.
    """

    deployment: Deployment
    directory: Path
    at: Address
    backend: Address

    def pid(self, name: str) -> int:
        """The process of a program."""
        return next(each.pid for each in self.deployment.running if each.name == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything; the defaults are what the goals are about."""

    agents: int = 300
    rest: float = 10.0
    streams: int = 1_000
    seconds: int = 15
    rates: Mapping[int, int] = field(default_factory=lambda: {200: 30, 500: 10})
    """Opens a second, and for how many seconds."""
    rules: int = 10_000
    decisions: int = 10_000
    services: int = 5_000
    starts: int = 3
    changes: int = 20
    events: int = 20_000
    transfers: int = 7
    transfer: int = 64 << 20
    kills: int = 30
    silences: int = 10
    restarts: int = 6
    paths: Sequence[Setting] = (
        Setting(round_trip=0.1, loss=0.001),
        Setting(round_trip=0.1, loss=0.0),
    )
    crossings: int = 5
    crossing: float = 10.0
    """Seconds that plain TCP needs where packets are lost, about, after it has found its rate."""


QUICK = Size(
    agents=3, rest=0.2, streams=20, seconds=1, rates={20: 1}, rules=100, decisions=200,
    services=10, starts=1, changes=2, events=100,
    transfers=1, transfer=1 << 20, kills=1, silences=1, restarts=2,
    paths=[Setting(round_trip=0.01, loss=0.01)], crossings=1, crossing=0.2,
)  # fmt: skip
"""As much as shows that it works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One thing to measure.

    Args:
        name: Short, for choosing it.
        hold: Measures it.
        fresh: It wants a relay that has carried nothing yet.
        missing: What keeps it from being held here; empty when nothing does.
    """

    name: str
    hold: Callable[[Place, Size], Iterator[Reading]]
    fresh: bool = False
    missing: Callable[[], str] = lambda: ""


# ---- the trials ----------------------------------------------------------------------------


def _idle_agents(place: Place, size: Size) -> Iterator[Reading]:
    relay = place.pid("relay")
    before = procfs.usage(relay).rss
    folder = place.directory / "crowd"
    folder.mkdir()
    pki, where = place.directory / "pki", address_text(place.deployment.relay)
    crowd = subprocess.Popen(
        [*_CROWD, str(pki), str(folder), where, str(size.agents)], process_group=0
    )
    try:
        _await_services(place.deployment, size.agents)
        time.sleep(min(_SETTLE, size.rest))
        began, start = procfs.usage(relay), time.monotonic()
        time.sleep(size.rest)
        ended, seconds = procfs.usage(relay), time.monotonic() - start
    finally:
        crowd.kill()
        crowd.wait()
    of = f"{size.agents} idle agents"
    memory = (ended.rss - before) / size.agents / KIB
    yield Reading(name=f"{of}: relay memory each", unit="KiB", values=[memory], goal=1024)
    busy = (ended.cpu_seconds - began.cpu_seconds) / seconds * 100
    yield Reading(name=f"{of}: relay at rest", unit="% of a core", values=[busy], goal=10)


def _await_services(deployment: Deployment, count: int) -> None:
    """Return when the relay knows ``count`` services of the crowd."""
    relay = next(each for each in deployment.running if each.name == "relay")
    for number in range(count):
        relay.wait_for("service registered", fields={"service": f"idle-{number}"}, timeout=60)


def _streams(place: Place, size: Size) -> Iterator[Reading]:
    answer = _swarm("streams", place.at, size.streams, size.seconds)
    moved = [value / KIB / size.seconds for value in answer.values]
    if not moved:
        raise TrialFailedError(f"streams at once: {answer.errors[0]}")
    total = 2 * sum(answer.values) / size.seconds / 1e6
    yield Reading(
        name=f"{size.streams} streams at once: each, both ways",
        unit="KiB/s",
        values=moved,
        goal=statistics.median(moved) / 2,
        at=At.LOWEST,
        at_least=True,
        errors=answer.errors,
        note=f"{total:.1f} MB/s together",
    )


def _opens(place: Place, size: Size) -> Iterator[Reading]:
    _swarm("opens", place.at, 100, 20)  # warm up
    for number, (rate, seconds) in enumerate(size.rates.items()):
        before = {name: procfs.usage(place.pid(name)).cpu_seconds for name in _CHAIN}
        answer = _swarm("opens", place.at, rate, rate * seconds)
        if not answer.values:
            raise TrialFailedError(f"opens: {answer.errors[0]}")
        spent = [procfs.usage(place.pid(name)).cpu_seconds - before[name] for name in _CHAIN]
        yield Reading(
            name=f"{rate} opens a second for {seconds} s",
            unit="ms",
            values=[value * 1e3 for value in answer.values],
            goal=100,
            at=At.P99,
            is_aim=number > 0,
            errors=answer.errors,
            note="CPU "
            + " / ".join(f"{each / rate / seconds * 1e3:.2f}" for each in spent)
            + " ms",
        )


_CHAIN = ("consumer", "relay", "provider")


def _policy(_place: Place, size: Size) -> Iterator[Reading]:
    misses, hits = decisions.measure(size.rules, size.decisions)
    for word, found, goal in (("misses", misses, 200), ("hits", hits, 5)):
        yield Reading(
            name=f"decision, {size.rules} rules, {word} the cache",
            unit="us",
            values=[value * 1e6 for value in found],
            goal=goal,
            at=At.P99,
        )


def _large(place: Place, size: Size) -> Iterator[Reading]:
    directory = place.directory / "large"
    directory.mkdir()
    found = large.measure(
        directory,
        place.backend,
        services=size.services,
        rules=size.rules,
        starts=size.starts,
        changes=size.changes,
    )
    of = f"{size.services} services, {size.rules} rules"
    yield Reading(
        name=f"{of}: relay's start", unit="s", values=found.started, goal=5, at=At.HIGHEST
    )
    yield Reading(
        name=f"{of}: a change cuts a stream",
        unit="ms",
        values=[value * 1e3 for value in found.reached],
        goal=100,
    )


def _audit(place: Place, size: Size) -> Iterator[Reading]:
    pki, spool = place.directory / "pki", place.directory / "spool"
    found = audit.measure(pki, place.deployment.controller, spool, size.events)
    yield Reading(
        name="audit: an event recorded",
        unit="us",
        values=[value * 1e6 for value in found.recorded],
        goal=20,
    )
    for name, rate in (("memory", found.per_second), ("a spool", found.spooled_per_second)):
        yield Reading(
            name=f"audit: events stored, from {name}",
            unit="/s",
            values=[rate],
            goal=1000,
            at_least=True,
        )


def _rings(place: Place, size: Size) -> Iterator[Reading]:
    amounts = dict.fromkeys(Carrier, size.transfer)
    yield from _shares(place, size, rings.shares, amounts, "with resuming, of without", 90)


def _observing(place: Place, size: Size) -> Iterator[Reading]:
    amounts = {Carrier.QUIC: size.transfer, Carrier.TCP: _FASTER * size.transfer}
    yield from _shares(place, size, observing.measure, amounts, "seen, of unseen", 97)


_FASTER = 6
"""So much more is moved over TCP, for about as long."""


def _shares(
    place: Place,
    size: Size,
    measure: Callable[..., Mapping[str, Sequence[float]]],
    amounts: Mapping[Carrier, int],
    words: str,
    goal: float,
) -> Iterator[Reading]:
    """The readings of what is compared with what is alike but for one thing."""
    for carrier, amount in amounts.items():
        directory = place.directory / f"{measure.__module__}-{carrier}"
        directory.mkdir()
        found = measure(directory, carrier=carrier, rounds=size.transfers, amount=amount)
        for name, values in found.items():
            is_cpu = name == CPU
            yield Reading(
                name=f"{carrier}, {name if is_cpu else f'{name}load'}: {words}",
                unit="%",
                values=[100 * value for value in values],
                goal=200 - goal if is_cpu else goal,
                at_least=not is_cpu,
            )


def _idle_streams(place: Place, size: Size) -> Iterator[Reading]:
    pids = {name: place.pid(name) for name in _CHAIN}
    for name, cost in rings.idle(place.at, pids, size.streams).items():
        yield Reading(
            name=f"{size.streams} idle streams: memory of the {name}",
            unit="MiB",
            values=[cost / KIB / KIB],
            goal=110,
        )


def _outages(place: Place, size: Size) -> Iterator[Reading]:
    for carrier in ("quic", "tcp"):
        directory = place.directory / f"outages-{carrier}"
        directory.mkdir()
        found = outages.measure(
            directory,
            place.backend,
            carrier=carrier,
            kills=size.kills,
            silences=size.silences,
            restarts=size.restarts,
        )
        for name, pauses, goal, at in (
            ("the relay is killed", found.killed, 1000, At.MEDIAN),
            ("the relay falls silent", found.silent, 4500, At.MEDIAN),
            ("relays restart one by one", found.rolling, 300, At.HIGHEST),
        ):
            yield Reading(
                name=f"{carrier}: {name}, another takes over",
                unit="ms",
                values=[value * 1e3 for value in pauses],
                goal=goal,
                at=at,
                errors=found.refused if pauses is found.rolling else (),
            )


def _impaired(place: Place, size: Size) -> Iterator[Reading]:
    directory = place.directory / "impaired"
    directory.mkdir()
    found: dict[tuple[Setting, str], dict[str, list[float]]] = {}
    for each in impaired.measure(
        directory, size.paths, [Variant(name=QUIC)], rounds=size.crossings, seconds=size.crossing
    ):
        of = found.setdefault((each.setting, each.direction), {QUIC: [], DIRECT: []})
        of[each.way].append(each.rate / 1e6)
    for (setting, direction), rates in found.items():
        ours, plain = rates[QUIC], rates[DIRECT]
        medians = f"{statistics.median(ours):.2f} of {statistics.median(plain):.2f} MB/s"
        yield Reading(
            name=f"{setting}, {direction}load: of plain TCP",
            unit="%",
            values=[100 * statistics.median(ours) / statistics.median(plain)],
            goal=80,
            at_least=True,
            is_aim=not setting.loss,
            note=medians,
        )


TRIALS = (
    Trial(name="idle agents", hold=_idle_agents, fresh=True),
    Trial(name="idle streams", hold=_idle_streams, fresh=True),
    Trial(name="opens a second", hold=_opens),
    Trial(name="streams at once", hold=_streams),
    Trial(name="policy decisions", hold=_policy),
    Trial(name="large controller", hold=_large),
    Trial(name="audit", hold=_audit),
    Trial(name="cost of resuming", hold=_rings),
    Trial(name="observing", hold=_observing),
    Trial(name="outages", hold=_outages),
    Trial(name="impaired path", hold=_impaired, missing=path.missing),
)


@contextmanager
def backend() -> Iterator[tuple[subprocess.Popen[str], Address]]:
    """The echoing backend and where it listens, for as long as the context lasts."""
    with subprocess.Popen(
        [*_SWARM, "serve"], stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        try:
            assert process.stdout is not None
            yield process, ("127.0.0.1", int(process.stdout.readline()))
        finally:
            process.kill()


# ---- the load ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    values: Sequence[float]
    errors: Sequence[str]


def _swarm(work: str, at: Address, first: int, second: int) -> _Answer:
    done = subprocess.run(
        [*_SWARM, work, str(at[1]), str(first), str(second)],
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode:
        raise TrialFailedError(f"{work}: {done.stderr.strip().splitlines()[-1]}")
    answer = json.loads(done.stdout)
    return _Answer(answer["values"], answer["errors"])

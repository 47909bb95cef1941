"""How far the clocks of the files are apart, from events of which one caused the other.

A relay says "stream opened" before it tells the agents, so an agent that says it at an earlier
time has a slower clock, or the relay a faster one. Of every pair of clocks the tightest such
bound is kept; the bounds of all pairs together (difference constraints, hence shortest paths)
give each clock an interval around the reference.

Words: a *step* is what an event is in the life of a stream; a *moment* is when a clock saw one.
The *offset* of a clock is what it shows too much, milliseconds, beside the *reference*: the
clock that most others are compared with, as a rule the relay's.

Invariants: a bound is taken from nothing that is merely likely, but for one rule: of ``ENOUGH``
streams the fastest answer took less than ``SWIFT``. Memory is bounded: streams are sampled by
their id, the same ones in every file.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from outrelay.tools.correlate.line import Fields, text_of

SWIFT: Final = 250
"""Milliseconds that the fastest answer of many takes at most."""

SAME: Final = 50
"""Milliseconds between a relay's log line and its audit event, at best."""

ENOUGH: Final = 5
"""Streams from which an assumption about the fastest is taken."""

MOST: Final = 50_000
"""Moments in the sample."""

_STEPS: Final = {
    ("agent", "opening stream"): "ask",
    ("relay", "asking a provider"): "asked",
    ("agent", "backend connected"): "served",
    ("agent", "incoming stream refused"): "served",
    ("relay", "stream opened"): "open",
    ("agent", "stream opened"): "opened",
    ("relay", "stream refused"): "refuse",
    ("agent", "open refused"): "refused",
    ("relay", "stream ended"): "end",
    ("relay", "stream revoked"): "revoke",
    ("controller", "stream killed"): "killed",
    ("audit", "open"): "audit open",
    ("audit", "close"): "audit close",
    ("audit", "reject"): "audit reject",
    ("audit", "revoke"): "audit revoke",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One step causes another.

    Args:
        cause: What comes first.
        effect: What comes after it.
        within: Milliseconds in which it does at best; None: nobody knows.
    """

    cause: str
    effect: str
    within: int | None = None


_RULES: Final = (
    Rule("ask", "asked"),
    Rule("ask", "open"),
    Rule("ask", "refuse"),
    Rule("asked", "served"),
    Rule("served", "open"),
    Rule("served", "refuse"),
    Rule("open", "opened", SWIFT),
    Rule("refuse", "refused", SWIFT),
    Rule("revoke", "killed", SWIFT),
    Rule("audit open", "open", SAME),
    Rule("audit close", "end", SAME),
    Rule("audit reject", "refuse", SAME),
    Rule("audit revoke", "revoke", SAME),
)
_AMBIGUOUS: Final = ("asked", "served", "end", "audit close")
"""Steps that are left out where a stream has several: a provider may answer too late, a stream that
was resumed has ended at each of its relays."""

Moment = tuple[int, str, int]
"""Index of the clock, step, milliseconds."""


class Sample:
    """The moments of some streams, the same ones of every file.

    Args:
        most: How many moments to hold.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._moments: dict[str, list[Moment]] = {}
        self._count = 0
        self.bound = "g"
        """Streams whose id is below it are in the sample; all ids are at first."""

    def add(self, stream_id: str, clock: int, ts: int, speaker: str, fields: Fields) -> None:
        """Take an entry whose id is below the bound."""
        kind = "audit" if speaker.startswith("audit") else speaker
        step = _STEPS.get((kind, text_of(fields, "event")))
        if step is None or "times" in fields:
            return  # what is told of several was told late
        self._moments.setdefault(stream_id, []).append((clock, step, ts))
        self._count += 1
        if self._count > self._most:
            self._halve()

    def streams(self) -> Iterable[list[Moment]]:
        """The moments of each stream."""
        return self._moments.values()

    def _halve(self) -> None:
        ids = sorted(self._moments)
        self.bound = ids[len(ids) // 2]
        self._moments = {each: self._moments[each] for each in ids if each < self.bound}
        self._count = sum(map(len, self._moments.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """What is known of a clock beside the reference.

    Args:
        offset: Milliseconds by which it is ahead; 0 where nothing says that it is.
        error: Milliseconds by which that may be wrong; None: nobody knows.
        streams: How many streams say so.
        is_steady: False: no one offset explains what is there; the clock was set meanwhile.
    """

    offset: float = 0.0
    error: float | None = None
    streams: int = 0
    is_steady: bool = True


@dataclass(frozen=True, slots=True)
class Skew:
    """The clocks, by index, and which of them is the reference (None: nothing to compare)."""

    clocks: Mapping[int, Clock]
    reference: int | None = None

    def offset(self, clock: int) -> float:
        """Milliseconds by which a clock is ahead of the reference."""
        return self.clocks[clock].offset if clock in self.clocks else 0.0


_Pair = tuple[int, int]
_Span = tuple[float, float]


def estimate(sample: Sample, preferred: Iterable[int] = ()) -> Skew:
    """The clocks of a sample.

    Args:
        sample: Of all files.
        preferred: Clocks to take the reference from, where they have been compared.
    """
    bounds, likely, matches = _bounds(sample)
    clocks = {clock for pair in bounds for clock in pair}
    if not clocks:
        return Skew({})
    degree = Counter[int]()
    for pair, count in matches.items():
        degree.update(dict.fromkeys(pair, count))
    reference = max(clocks & set(preferred) or clocks, key=lambda each: (degree[each], -each))
    certain, assumed = _spans(bounds, reference), _spans(likely, reference)
    found = {
        clock: _clock(certain(clock), assumed(clock), degree[clock])
        for clock in sorted(clocks - {reference})
    }
    return Skew({reference: Clock(error=0.0, streams=degree[reference]), **found}, reference)


def _clock(certain: _Span, assumed: _Span, streams: int) -> Clock:
    """The clock whose offset lies in a span; one that is assumed lies within the certain one."""
    low, high = assumed
    if low > high:
        return Clock(streams=streams, is_steady=False)
    error = (high - low) / 2
    if low <= 0 <= high:
        error = max(-low, high)
        return Clock(error=None if error == inf else error, streams=streams)
    if inf not in (-certain[0], certain[1]):
        return Clock(offset=(low + high) / 2, error=error, streams=streams)
    # What is certain on one side only is as good as the fastest answer was fast.
    offset = low if certain[1] == inf else high
    return Clock(offset=offset, error=None if error == inf else 2 * error, streams=streams)


def _spans(bounds: Mapping[_Pair, float], reference: int) -> Callable[[int], _Span]:
    """Between what the offset of each clock lies."""
    latest = _distances(bounds, reference)
    earliest = _distances({(b, a): bound for (a, b), bound in bounds.items()}, reference)
    return lambda clock: (-earliest.get(clock, inf), latest.get(clock, inf))


def _bounds(sample: Sample) -> tuple[dict[_Pair, float], dict[_Pair, float], Counter[_Pair]]:
    """Of pairs of clocks by how much the second may be ahead; those that are certain, those with
    what is assumed, and how many streams say so."""
    bounds: dict[_Pair, float] = {}
    swift: defaultdict[tuple[int, int, int], list[float]] = defaultdict(lambda: [inf, 0])
    matches = Counter[_Pair]()
    for stream in sample.streams():
        for cause, effect, delay, within in _delays(stream):
            pair = (cause, effect)
            bounds[pair] = min(delay, bounds.get(pair, inf))
            matches[pair] += 1
            if within is not None:
                fastest = swift[cause, effect, within]
                fastest[0] = min(delay, fastest[0])
                fastest[1] += 1
    likely = dict(bounds)
    for (cause, effect, within), (delay, count) in swift.items():
        if count >= ENOUGH:
            pair = (effect, cause)
            likely[pair] = min(within - delay, likely.get(pair, inf))
    return bounds, likely, matches


def _delays(stream: Iterable[Moment]) -> Iterable[tuple[int, int, float, int | None]]:
    """Of each rule that fits: both clocks, milliseconds between them, and ``within``."""
    seen: defaultdict[str, list[Moment]] = defaultdict(list)
    for moment in stream:
        seen[moment[1]].append(moment)
    for step in _AMBIGUOUS:
        if len(seen[step]) > 1:
            del seen[step]
    for rule in _RULES:
        if rule.cause not in seen or rule.effect not in seen:
            continue
        for (a, _, began), (b, _, ended) in itertools.product(seen[rule.cause], seen[rule.effect]):
            if a != b:
                yield a, b, ended - began, rule.within


def _distances(bounds: Mapping[_Pair, float], start: int) -> dict[int, float]:
    """The length of the shortest path to each clock; rounds are bounded, for paths that shrink."""
    lengths = {start: 0.0}
    for _ in bounds:
        before = dict(lengths)
        for (a, b), bound in bounds.items():
            if a in lengths and b != start:
                lengths[b] = min(lengths[a] + bound, lengths.get(b, inf))
        if lengths == before:
            break
    return lengths

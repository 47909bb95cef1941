"""What a group says of its stream: who took part, what happened, and where it stopped.

Words: a *role* is what a speaker is to this stream: consumer, relay, provider, controller, audit.
A *lane* is a speaker in its role; a *beat* is an entry in its lane. A lane is *over* when it has
said how the stream ended for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from outrelay.tools.correlate.intake import Remark, Speaker
from outrelay.tools.correlate.line import Fields, text_of
from outrelay.tools.correlate.skew import Skew

CONSUMER: Final = "consumer"
RELAY: Final = "relay"
PROVIDER: Final = "provider"
CONTROLLER: Final = "controller"
AUDIT: Final = "audit"
AGENT: Final = "agent"
"""An agent of which no line says which end it is."""

ORDER: Final = (CONSUMER, RELAY, PROVIDER, AGENT, CONTROLLER, AUDIT)

MOST_BEATS: Final = 100
"""Beats that are kept of the beginning of a stream, and of its end."""

SIDES: Final = {
    "opening stream": CONSUMER,
    "open refused": CONSUMER,
    "open given up": CONSUMER,
    "backend connected": PROVIDER,
    "backend failed": PROVIDER,
    "incoming stream refused": PROVIDER,
    "refusal not delivered": PROVIDER,
    "stream given up": PROVIDER,
    "stream lost before it was ready": PROVIDER,
}
"""Whose the lines are that only one end has."""

ENDS: Final = frozenset(
    {
        "stream ended",
        "stream refused",
        "stream dropped",
        "stream given up",
        "half of a stream dropped",
        "open refused",
        "open given up",
        "incoming stream refused",
        "close",
        "reject",
    }
)
FAILURES: Final = ENDS - {"stream ended", "close"} | {
    "backend failed",
    "provider rests",
    "refusal not delivered",
    "stalled stream cut off",
    "stream revoked",
    "revoke",
    "stream killed",
}
FINISHED: Final = "finished"


@dataclass(slots=True)
class Lane:
    """A speaker in its role."""

    speaker: Speaker
    role: str
    is_over: bool = False
    last: float = 0.0


@dataclass(frozen=True, slots=True)
class Beat:
    """An entry in its lane.

    Args:
        at: Milliseconds by the reference's clock.
        lane: Whose.
        event: What happened.
        fields: The line's.
    """

    at: float
    lane: Lane
    event: str
    fields: Fields

    @property
    def reason(self) -> str:
        """Why, in the line's words."""
        return text_of(self.fields, "reason") or text_of(self.fields, "error")

    @property
    def is_failure(self) -> bool:
        """Whether it tells of something that went wrong."""
        if self.event in ("stream ended", "close"):
            return self.reason != FINISHED
        return self.event in FAILURES


@dataclass(slots=True)
class Story:
    """What a group says.

    Args:
        stream_id: Of the stream.
    """

    stream_id: str
    events: int = 0
    lanes: list[Lane] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    """What lines call the service, the consumer and the provider."""
    _first: list[Beat] = field(default_factory=list)
    _last: deque[Beat] = field(default_factory=lambda: deque(maxlen=MOST_BEATS))

    @property
    def beats(self) -> list[Beat]:
        """In order of time; of very many the first and the last."""
        return sorted([*self._first, *self._last], key=_order)

    @property
    def left_out(self) -> int:
        """How many beats are not kept."""
        return self.events - len(self._first) - len(self._last)

    def add(self, speaker: Speaker, at: float, fields: Fields) -> None:
        """Take an entry; they come in the order of their own clocks."""
        event = text_of(fields, "event") or text_of(fields, "method").lower()
        lane = self._lane(speaker, event, fields)
        lane.is_over = event in ENDS or (lane.is_over and not event.startswith("stream "))
        lane.last = max(lane.last, at)
        beat = Beat(at, lane, event, fields)
        self.events += 1
        if len(self._first) < MOST_BEATS:
            self._first.append(beat)
        else:
            self._last.append(beat)
        for name, value in _names(lane.role, fields):
            self.names.setdefault(name, value)

    def in_role(self, *roles: str) -> list[Lane]:
        """The lanes of these roles."""
        return [lane for lane in self.lanes if lane.role in roles]

    def _lane(self, speaker: Speaker, event: str, fields: Fields) -> Lane:
        role = _role(speaker, event, fields)
        own = [lane for lane in self.lanes if lane.speaker is speaker]
        if role == AGENT and own:
            return own[0]
        for lane in own:
            if lane.role in (role, AGENT):
                lane.role = role
                return lane
        lane = Lane(speaker, role)
        self.lanes.append(lane)
        self.lanes.sort(key=lambda each: ORDER.index(each.role))
        return lane


def story_of(stream_id: str, entries: Iterable[tuple[Speaker, int, Fields]], skew: Skew) -> Story:
    """The story of a stream.

    Args:
        stream_id: Its.
        entries: Who said what when; milliseconds of the own clock.
        skew: By how much these are wrong.
    """
    story = Story(stream_id)
    for speaker, ts, fields in entries:
        story.add(speaker, ts - skew.offset(speaker.index), fields)
    return story


def remarks_during(story: Story, remarks: Iterable[Remark], skew: Skew) -> list[Beat]:
    """What those who took part went through meanwhile."""
    beats = story.beats
    begin, end = beats[0].at, beats[-1].at
    lanes = {lane.speaker.index: lane for lane in reversed(story.lanes)}
    found = []
    for remark in remarks:
        lane = lanes.get(remark.speaker.index)
        at = remark.ts - skew.offset(remark.speaker.index)
        if lane and begin <= at <= end and _concerns(story, remark.fields):
            found.append(Beat(at, lane, text_of(remark.fields, "event"), remark.fields))
    return found


def _concerns(story: Story, fields: Fields) -> bool:
    agent = text_of(fields, "agent")
    return not agent or agent in story.names.values()


def _role(speaker: Speaker, event: str, fields: Fields) -> str:
    if speaker.name.startswith("audit"):
        return AUDIT
    if speaker.name in (RELAY, CONTROLLER):
        return speaker.name
    side = text_of(fields, "side")
    return side if side in (CONSUMER, PROVIDER) else SIDES.get(event, AGENT)


def _names(role: str, fields: Fields) -> Iterable[tuple[str, str]]:
    """What a line calls those who take part."""
    said = {
        "service": text_of(fields, "service") or text_of(fields, "target"),
        CONSUMER: text_of(fields, "consumer") or text_of(fields, "caller"),
        PROVIDER: text_of(fields, "provider"),
    }
    if role == CONSUMER:
        said[PROVIDER] = text_of(fields, "peer")
    elif role == PROVIDER:
        said[CONSUMER] = text_of(fields, "peer")
        if text_of(fields, "event") == "backend failed":
            said["service"] = text_of(fields, "service")
    return ((name, value) for name, value in said.items() if value)


_CAUSES: Final[Sequence[Callable[[Beat], bool]]] = (
    lambda beat: beat.event == "opening stream",
    lambda beat: beat.event == "asking a provider",
    lambda beat: beat.event in ("backend connected", "backend failed"),
    lambda beat: beat.event in ("incoming stream refused", "provider rests"),
    lambda beat: beat.lane.role == AUDIT and beat.event in ("open", "reject", "revoke"),
    lambda beat: beat.lane.role == RELAY,
    lambda beat: beat.lane.role in (CONSUMER, PROVIDER, AGENT),
)
"""What comes before what in the same millisecond."""


def _order(beat: Beat) -> tuple[float, int]:
    rank = next((rank for rank, fits in enumerate(_CAUSES) if fits(beat)), len(_CAUSES))
    return beat.at, rank

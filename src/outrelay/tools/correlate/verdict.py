"""Where a stream stopped, why, and which lines are missing.

The beats are asked in turn: was it ended by policy or an operator, refused (by the provider, the
relay; what the consumer was told), or did it end, and by whose doing? Whoever says so in words of
its own was there; the others only heard of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from outrelay.lib.errors import RejectCode
from outrelay.tools.correlate.intake import Remark
from outrelay.tools.correlate.line import text_of
from outrelay.tools.correlate.skew import Skew
from outrelay.tools.correlate.story import (
    AUDIT,
    CONSUMER,
    CONTROLLER,
    FINISHED,
    PROVIDER,
    RELAY,
    Beat,
    Lane,
    Story,
)

OPEN = "open"
REFUSED = "refused"
ENDED = "ended"
REVOKED = "revoked"
ASKED = "asked"

_OF_PROVIDER: Final = ("the provider",)
"""How the reasons begin by which a relay passes on what a provider said, or did not."""

_DOING: Final = (
    ("application:", CONSUMER),
    ("backend:", PROVIDER),
    ("reset by the consumer", CONSUMER),
    ("reset by the provider", PROVIDER),
    ("no longer read by the consumer", CONSUMER),
    ("no longer read by the provider", PROVIDER),
    ("not resumed within", RELAY),
    ("the relay", RELAY),
    ("relay:", RELAY),
    ("the consumer's connection", CONSUMER),
    ("the provider's connection", PROVIDER),
)
"""How the reasons of an end begin, those that tell most first, and whose doing it is."""

_HINTS: Final[Mapping[int, str]] = {
    RejectCode.DENIED: "outrelay-cli policy explain --caller {consumer} --target {service}",
    RejectCode.NOT_FOUND: "is an agent connected that exposes {service}? see its log",
    RejectCode.LIMIT: "see the limits of relay and agents (--max-streams), and who uses them up",
    RejectCode.UNREACHABLE: "is the backend of {service} running? outrelay-agent doctor, beside it",
    RejectCode.REJECTED: "the provider is stopping; is there another one?",
    RejectCode.TIMEOUT: "look at the log of the provider's agent, and at its backend",
}
_ENDS: Final = ("stream ended", "close", "stream given up")
_RESUMED: Final = ("stream resumed", "resume")
_SLACK: Final = 100.0
"""Milliseconds by which logs may end at different times without a meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Where a stream stopped.

    Args:
        kind: ``finished``, ``refused``, ``ended``, ``revoked``, ``open`` or ``asked``.
        where: The role at which it stopped; empty: nowhere.
        reason: Why, in the words of who knows.
        hint: What to do; may be empty.
    """

    kind: str
    where: str = ""
    reason: str = ""
    hint: str = ""

    def __str__(self) -> str:
        if self.kind == FINISHED:
            return "finished"
        return f"{self.kind} at the {self.where}" if self.where else self.kind


def verdict_of(story: Story) -> Verdict:
    """Where the stream of a story stopped."""
    beats = story.beats
    for judge in (_revoked, _refused, _ended):
        if verdict := judge(story, beats):
            return verdict
    if any(beat.event in ("stream opened", "stream resumed", "open", "resume") for beat in beats):
        return Verdict(kind=OPEN)
    return Verdict(kind=ASKED, where=beats[-1].lane.role)


def _revoked(story: Story, beats: Sequence[Beat]) -> Verdict | None:
    killed = _last(beats, "stream killed")
    revoked = _last(beats, "stream revoked", "revoke")
    if killed:
        by = text_of(killed.fields, "by")
        return Verdict(kind=REVOKED, where=CONTROLLER, reason=f"killed by {by}")
    if revoked:
        hint = _HINTS[RejectCode.DENIED].format_map(_Names(story.names))
        return Verdict(kind=REVOKED, where=RELAY, reason=revoked.reason, hint=hint)
    return None


def _refused(story: Story, beats: Sequence[Beat]) -> Verdict | None:
    if any(beat.event in ("stream opened", "open") for beat in beats):
        return None
    given_up = _last(beats, "open given up")
    if given_up:
        return Verdict(kind=REFUSED, where=CONSUMER, reason=given_up.reason)
    for event in ("incoming stream refused", "stream refused", "open refused", "reject"):
        if beat := _last(beats, event):
            return _refusal(story, beat)
    if dropped := _last(beats, "stream dropped", "stream given up"):
        return Verdict(kind=REFUSED, where=dropped.lane.role, reason=dropped.reason)
    return None


def _refusal(story: Story, beat: Beat) -> Verdict:
    code = beat.fields.get("code")
    reason = beat.reason
    where = beat.lane.role
    if where == AUDIT and reason[:3].isdigit():
        code, reason = int(reason[:3]), reason[3:].strip()
    if where != PROVIDER:
        where = PROVIDER if reason.startswith(_OF_PROVIDER) else RELAY
    if not isinstance(code, int):
        return Verdict(kind=REFUSED, where=where, reason=reason)
    hint = _HINTS.get(code, "").format_map(_Names(story.names))
    return Verdict(kind=REFUSED, where=where, reason=f"{code} {reason}", hint=hint)


class _Names(dict[str, str]):
    """Names for a hint; those that nobody said stay open."""

    def __missing__(self, name: str) -> str:
        return name.upper()


def _ended(story: Story, beats: Sequence[Beat]) -> Verdict | None:
    ends = _final([beat for beat in beats if beat.event in _ENDS], beats)
    if not ends:
        return None
    if all(beat.reason == FINISHED for beat in ends):
        return Verdict(kind=FINISHED)
    for beginning, where in _DOING:
        for beat in ends:
            if beat.reason.startswith(beginning):
                return Verdict(kind=ENDED, where=where, reason=beat.reason, hint=_after(where))
    broken = next(beat for beat in ends if beat.reason != FINISHED)
    where = _elsewhere(broken) if broken.reason.startswith("reset from") else broken.lane.role
    return Verdict(kind=ENDED, where=where, reason=broken.reason)


def _final(ends: Sequence[Beat], beats: Sequence[Beat]) -> Sequence[Beat]:
    """The ends that the stream did not outlive."""
    resumed = max((beat.at for beat in beats if beat.event in _RESUMED), default=0.0)
    return [end for end in ends if end.at >= resumed]


def _after(where: str) -> str:
    if where == RELAY:
        return "does the relay run? outrelay-agent doctor, beside the agents, says what they reach"
    return ""


def _elsewhere(beat: Beat) -> str:
    return {CONSUMER: PROVIDER, PROVIDER: CONSUMER}.get(beat.lane.role, beat.lane.role)


def _last(beats: Iterable[Beat], *events: str) -> Beat | None:
    found = None
    for beat in beats:
        if beat.event in events:
            found = beat
    return found


# ---- what is missing -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that one would expect and that is not there.

    Args:
        who: The role, or the file of a lane.
        text: What is missing.
        cut: The moment at which the log of the lane ends, if that is in the middle.
        lane: Whose end is missing, if it is one's.
    """

    who: str
    text: str
    cut: float | None = None
    lane: Lane | None = None


def gaps_of(story: Story, verdict: Verdict, remarks: Iterable[Remark], skew: Skew) -> Iterator[Gap]:
    """What is missing in a story."""
    for role in (CONSUMER, RELAY, PROVIDER):
        if not story.in_role(role):
            yield Gap(role, _absent(role, story, verdict))
    remarks = list(remarks)
    for lane in story.lanes:
        if not lane.is_over and lane.role in (CONSUMER, RELAY, PROVIDER):
            yield from _unended(lane, story, verdict, remarks, skew)


def _absent(role: str, story: Story, verdict: Verdict) -> str:
    if role == PROVIDER and verdict.kind == REFUSED and verdict.where in (RELAY, CONSUMER):
        return "has no line, as it should: none was asked"
    if role == RELAY and story.in_role(AUDIT):
        return "has no line in these files; the audit trail tells for it"
    return "has no line: its log is not among these files, or the stream never got there"


def _unended(
    lane: Lane, story: Story, verdict: Verdict, remarks: Sequence[Remark], skew: Skew
) -> Iterator[Gap]:
    """Why a lane may not have said how the stream ended."""
    speaker = lane.speaker
    offset = skew.offset(speaker.index)
    end = max(other.last for other in story.lanes)
    own = [each for each in remarks if each.speaker is speaker and each.ts - offset > lane.last]
    log_ends = speaker.last - offset
    begun = next((each for each in own if text_of(each.fields, "event") == "ready"), None)
    said_so = any(text_of(each.fields, "event") in ("stopped", "crashed", "failed") for each in own)
    if begun and not said_so:
        at = begun.ts - offset
        yield Gap(
            speaker.file, "has no end of it; the program was killed, and started again", at, lane
        )
    elif log_ends < end - _SLACK:
        how = (
            f"the {lane.role} stopped"
            if said_so
            else f"the {lane.role} was killed, or its log is cut off there"
        )
        yield Gap(speaker.file, f"has no end of it, and no line after that: {how}", log_ends, lane)
    elif verdict.kind not in (OPEN, ASKED):
        yield Gap(speaker.file, "has no end of it, although the log goes on", None, lane)

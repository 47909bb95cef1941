"""The vocabulary of events: what the source logs is what is listed, and the other way round."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

import pytest

from outrelay.lib.observe.vocabulary import COMMON, SECTIONS, VOCABULARY
from outrelay.lib.observe.vocabulary.event import LEVELS, PROGRAMS
from tests.support.log_calls import LogCall, log_calls


@cache
def calls() -> list[LogCall]:
    return list(log_calls())


def programs_of(call: LogCall) -> set[str]:
    """Which programs may make a call; what is in the library, any of them."""
    return {call.room} if call.room in PROGRAMS else set(PROGRAMS)


def test_there_are_log_calls() -> None:
    assert len(calls()) > 100  # or the test below proves nothing


@pytest.mark.parametrize("call", calls(), ids=lambda call: f"{call.place} {call.phrase}")
def test_what_the_source_logs_is_listed(call: LogCall) -> None:
    event = VOCABULARY.get(call.phrase)
    line = f"Event({call.phrase!r}, {call.room!r}, {' '.join(sorted(call.levels))!r}, ...)"
    assert event, f"{call.place}: add {line} to outrelay.lib.observe.vocabulary"
    assert call.levels <= set(event.levels.split())
    assert call.fields - set(COMMON) <= event.fields
    if call.room in PROGRAMS:
        assert call.room in event.programs
    else:
        assert event.programs


def test_what_is_listed_is_logged() -> None:
    """No event, level or field is left over from code that has gone, nor a program."""
    said: defaultdict[str, list[LogCall]] = defaultdict(list)
    for call in calls():
        said[call.phrase].append(call)
    assert set(VOCABULARY) == set(said)
    for phrase, event in VOCABULARY.items():
        found = said[phrase]
        assert set(event.levels.split()) == set().union(*(call.levels for call in found)), phrase
        fields = set().union(*(call.fields for call in found)) - set(COMMON)
        assert event.fields == fields, phrase
        assert event.programs <= set().union(*(programs_of(call) for call in found)), phrase


def test_every_event_is_told_once_and_well() -> None:
    events = [event for section in SECTIONS.values() for event in section]
    assert len({event.phrase for event in events}) == len(events)
    for event in events:
        assert event.programs <= set(PROGRAMS)
        assert set(event.levels.split()) <= set(LEVELS)
        assert event.meaning[0].isupper() or event.meaning.startswith("--")
        assert event.meaning[-1] in ".?"
        assert not event.fields & set(COMMON)

"""What a peer is told of directions that we gave up, with notes and without."""

from __future__ import annotations

from math import inf

import pytest

from outrelay.lib.errors import ErrorCode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.tcp.channel import Channel
from outrelay.lib.transport.tcp.endings import RST_DELAY, STOP_GRACE, Endings
from outrelay.lib.transport.tcp.yamux_frames import FIN, RST, Note
from tests.support.yamux_peer import frames_in, notes_in

SENT, RECEIVED = ErrorCode.DENIED, ErrorCode.LIMIT


def told(
    *ends: str, over: str = "", takes_notes: bool, codes: tuple[ErrorCode, ErrorCode] = (SENT,) * 2
) -> tuple[list[object], ErrorCode | None, bool]:
    """The frames, the code of an RST, and whether our direction is over, of ends of stream 7."""
    endings, channel = Endings(), Channel(7)
    for end in ends:
        if end == "reset":
            endings.reset(channel, codes[0])
        else:
            endings.stop(channel, codes[1])
    channel.incoming.over = "in" in over
    channel.outgoing.over = "out" in over
    was_due = endings.is_due
    partings = endings.tell(50.0, takes_notes=takes_notes)
    assert (was_due, endings.is_due) == (True, False)
    assert endings.tell(50.0, takes_notes=takes_notes) == []
    if not partings:
        return [], None, channel.outgoing.over
    (parting,) = partings
    assert parting.channel is channel
    heard = notes_in(list(frames_in(parting.frames)))
    return heard, parting.reset, channel.outgoing.over


def test_each_direction_has_its_note() -> None:
    sent = Note(7, SENT, "", orp.SENT)
    received = Note(7, SENT, "", orp.RECEIVED)
    assert told("reset", takes_notes=True) == ([sent, (FIN, 7)], None, True)
    assert told("stop", takes_notes=True) == ([received], None, False)


def test_both_with_one_code_are_one_note() -> None:
    expected = ([Note(7, SENT), (RST, 7)], SENT, False)
    assert told("reset", "stop", takes_notes=True) == expected
    assert told("stop", "reset", takes_notes=True) == expected


def test_both_with_two_codes_are_two_notes() -> None:
    notes = [Note(7, SENT, "", orp.SENT), Note(7, RECEIVED, "", orp.RECEIVED)]
    heard = told("reset", "stop", takes_notes=True, codes=(SENT, RECEIVED))
    assert heard == ([*notes, (RST, 7)], SENT, False)


@pytest.mark.parametrize("takes_notes", [True, False])
def test_what_has_ended_meanwhile_is_not_told(takes_notes: bool) -> None:
    heard, reset, _ = told("reset", "stop", over="in and out", takes_notes=takes_notes)
    assert (heard, reset) == ([], None)


def test_what_has_ended_of_two_is_left_out() -> None:
    sent = ([Note(7, SENT, "", orp.SENT), (FIN, 7)], None, True)
    assert told("reset", "stop", over="in", takes_notes=True) == sent
    received = ([Note(7, SENT, "", orp.RECEIVED)], None, True)
    assert told("reset", "stop", over="out", takes_notes=True) == received


@pytest.mark.parametrize("ends", [("reset",), ("reset", "stop")])
def test_without_notes_a_reset_ends_both_when_its_code_could_be_said(ends: list[str]) -> None:
    endings, channel = Endings(), Channel(7)
    for end in ends:
        getattr(endings, end)(channel, SENT)
    assert endings.tell(50.0, takes_notes=False) == []
    assert endings.next_deadline() == 50.0 + RST_DELAY
    assert endings.overdue(50.0) == []
    (parting,) = endings.overdue(50.0 + RST_DELAY)
    assert notes_in(list(frames_in(parting.frames))) == [(RST, 7)]
    assert parting.reset is SENT
    assert endings.next_deadline() == inf


def test_without_notes_a_reset_of_what_has_ended_meanwhile_is_not_told() -> None:
    endings, channel = Endings(), Channel(7)
    endings.reset(channel, SENT)
    assert endings.tell(50.0, takes_notes=False) == []
    channel.incoming.over = channel.outgoing.over = True
    assert endings.overdue(50.0) == []
    assert endings.next_deadline() == inf


def test_without_notes_a_stop_is_told_when_our_end_has_had_its_time() -> None:
    endings, channel = Endings(), Channel(7)
    endings.stop(channel, SENT)
    assert endings.tell(50.0, takes_notes=False) == []
    assert endings.next_deadline() == 50.0 + STOP_GRACE
    assert endings.overdue(50.0 + STOP_GRACE) == []  # our direction is open
    assert endings.next_deadline() == 50.0 + 2 * STOP_GRACE
    channel.outgoing.over = True
    assert endings.overdue(51.0 + STOP_GRACE) == []  # not yet
    (parting,) = endings.overdue(50.0 + 2 * STOP_GRACE)
    assert notes_in(list(frames_in(parting.frames))) == [(RST, 7)]
    assert parting.reset is ErrorCode.CANCELLED
    assert endings.next_deadline() == inf


def test_without_notes_a_stop_of_what_ends_by_itself_is_not_told() -> None:
    endings, channel = Endings(), Channel(7)
    endings.stop(channel, SENT)
    endings.tell(50.0, takes_notes=False)
    channel.incoming.over = True
    assert endings.overdue(50.0 + STOP_GRACE) == []
    assert endings.next_deadline() == inf


def test_a_session_that_ends_tells_nothing() -> None:
    endings = Endings()
    endings.stop(Channel(1), SENT)
    endings.tell(50.0, takes_notes=False)
    endings.reset(Channel(3), SENT)
    endings.stop(Channel(5), SENT)
    endings.clear()
    assert not endings.is_due
    assert endings.next_deadline() == inf

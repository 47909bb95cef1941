"""How streams of a session end: by either side, early or in time, with peers of either kind."""

from __future__ import annotations

from outrelay.lib.errors import ErrorCode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import WRITE_BUFFER
from outrelay.lib.transport.tcp.channel import INITIAL_WINDOW, WINDOW
from outrelay.lib.transport.tcp.endings import RST_DELAY
from outrelay.lib.transport.tcp.yamux import EventKind
from outrelay.lib.transport.tcp.yamux_frames import (
    ACK,
    DATA,
    FIN,
    PING,
    RST,
    UPDATE,
    Note,
    header,
    note,
)
from tests.support.yamux_peer import (
    Frame,
    code_of,
    notes_in,
    ours,
    plain,
)

# --- early ends, between our own peers ---------------------------------------------------


def test_our_reset_is_a_note_and_an_end() -> None:
    peer = ours()
    channel = peer.opened()
    peer.session.write(channel, b"unsent")
    peer.session.reset(channel, ErrorCode.DENIED)
    peer.session.reset(channel, ErrorCode.LIMIT)
    assert notes_in(peer.heard()) == [Note(1, ErrorCode.DENIED, "", orp.SENT), (FIN, 1)]
    assert code_of(lambda: peer.session.write(channel, b"x")) is ErrorCode.DENIED
    peer.say(DATA, 0, 1, payload=b"still open")
    assert peer.session.read(channel, 100, 0.0) == b"still open"
    peer.say(UPDATE, FIN, 1)
    assert not peer.session._table


def test_our_stop_is_a_note_and_what_comes_is_dropped() -> None:
    peer = ours()
    channel = peer.opened()
    peer.say(DATA, 0, 1, payload=b"not wanted")
    peer.session.stop(channel, ErrorCode.LIMIT)
    peer.session.stop(channel, ErrorCode.DENIED)
    assert notes_in(peer.heard()) == [Note(1, ErrorCode.LIMIT, "", orp.RECEIVED)]
    assert code_of(lambda: peer.session.read(channel, 1, 0.0)) is ErrorCode.LIMIT
    peer.say(DATA, 0, 1, payload=bytes(WINDOW - 10))
    assert peer.heard() == []
    assert peer.session._table.held == 0
    peer.session.write(channel, b"goes on")
    assert peer.heard() == [Frame(DATA, 0, 1, 7, b"goes on")]


def test_both_ends_with_one_code_are_one_note_and_a_reset() -> None:
    peer = ours()
    channel = peer.opened()
    peer.session.stop(channel, ErrorCode.LEG_LOST)
    peer.session.reset(channel, ErrorCode.LEG_LOST)
    assert notes_in(peer.heard()) == [Note(1, ErrorCode.LEG_LOST), (RST, 1)]
    assert not peer.session._table


def test_both_ends_with_two_codes_are_two_notes_and_a_reset() -> None:
    peer = ours()
    channel = peer.opened()
    peer.session.reset(channel, ErrorCode.DENIED)
    peer.session.stop(channel, ErrorCode.LIMIT)
    assert notes_in(peer.heard()) == [
        Note(1, ErrorCode.DENIED, "", orp.SENT),
        Note(1, ErrorCode.LIMIT, "", orp.RECEIVED),
        (RST, 1),
    ]


def test_a_reset_after_the_peers_end_needs_no_more_than_ours() -> None:
    peer = ours()
    channel = peer.opened()
    peer.say(DATA, FIN, 1, payload=b"whole")
    peer.session.reset(channel, ErrorCode.DENIED)
    peer.session.stop(channel, ErrorCode.DENIED)
    assert notes_in(peer.heard()) == [Note(1, ErrorCode.DENIED, "", orp.SENT), (FIN, 1)]
    assert not peer.session._table
    assert peer.session._table.held == 0


def test_ends_that_are_overtaken_by_the_peers_are_not_said() -> None:
    peer = ours()
    channel = peer.opened()
    peer.session.stop(channel, ErrorCode.DENIED)
    peer.session.reset(channel, ErrorCode.DENIED)
    peer.say(UPDATE, RST, 1)
    assert peer.heard() == []


def test_an_end_that_was_said_is_not_said_again_to_a_peer_that_stops() -> None:
    peer = ours()
    channel = peer.opened()
    peer.session.finish(channel)
    assert notes_in(peer.heard()) == [(FIN, 1)]
    peer.raw(note(Note(1, ErrorCode.LIMIT, "", orp.RECEIVED)))
    assert (FIN, 1) not in notes_in(peer.heard())


def test_stop_after_the_end_was_read_does_nothing() -> None:
    peer = ours()
    channel = peer.opened()
    peer.say(UPDATE, FIN, 1)
    assert peer.session.read(channel, 1, 0.0) == b""
    peer.session.stop(channel, ErrorCode.DENIED)
    assert peer.session.read(channel, 1, 0.0) == b""


def test_reset_of_what_is_finished_and_sent_does_nothing() -> None:
    peer = ours()
    channel = peer.opened()
    peer.session.write(channel, b"whole")
    peer.session.finish(channel)
    peer.heard()
    peer.session.reset(channel, ErrorCode.DENIED)
    assert peer.heard() == []


def test_reset_of_what_is_finished_but_not_sent_is_no_clean_end() -> None:
    peer = ours()
    channel = peer.opened()
    peer.session.write(channel, bytes(INITIAL_WINDOW + 1))
    peer.session.finish(channel)
    peer.heard()
    peer.session.reset(channel, ErrorCode.DENIED)
    assert notes_in(peer.heard()) == [Note(1, ErrorCode.DENIED, "", orp.SENT), (FIN, 1)]


def test_the_peers_reset_ends_our_reading_only() -> None:
    peer = ours()
    channel = peer.opened()
    assert peer.session.read(channel, 1, 0.0) is None
    peer.raw(note(Note(1, ErrorCode.EXPIRED, "", orp.SENT)))
    peer.say(UPDATE, FIN, 1)
    assert peer.events() == [EventKind.READABLE]
    assert code_of(lambda: peer.session.read(channel, 1, 0.0)) is ErrorCode.EXPIRED
    peer.session.write(channel, b"goes on")
    peer.session.finish(channel)
    assert [frame.flags for frame in peer.heard()[:2]] == [0, FIN]
    assert not peer.session._table


def test_the_peers_stop_ends_our_writing_only_and_is_answered() -> None:
    peer = ours()
    channel = peer.opened()
    assert not peer.session.write(channel, bytes(WRITE_BUFFER + INITIAL_WINDOW + 1))
    peer.raw(note(Note(1, ErrorCode.DENIED, "", orp.RECEIVED)))
    assert peer.events() == [EventKind.WRITABLE, EventKind.FINISHED]
    assert peer.heard() == [Frame(UPDATE, FIN, 1, 0)]
    assert code_of(lambda: peer.session.write(channel, b"x")) is ErrorCode.DENIED
    peer.session.finish(channel)
    peer.session.reset(channel, ErrorCode.LIMIT)
    assert peer.heard() == []
    peer.say(DATA, FIN, 1, payload=b"whole")
    assert peer.session.read(channel, 100, 0.0) == b"whole"
    assert not peer.session._table


def test_the_peers_end_of_both_has_one_code() -> None:
    peer = ours()
    channel = peer.opened()
    peer.raw(note(Note(1, ErrorCode.LEG_LOST)) + header(UPDATE, RST, 1, 0))
    assert code_of(lambda: peer.session.read(channel, 1, 0.0)) is ErrorCode.LEG_LOST
    assert code_of(lambda: peer.session.write(channel, b"x")) is ErrorCode.LEG_LOST
    assert not peer.session._table
    assert peer.session.closed is None


def test_a_note_about_a_stream_that_has_ended_is_no_news() -> None:
    peer = ours()
    peer.opened()
    peer.say(UPDATE, RST, 1)
    peer.raw(note(Note(1, ErrorCode.DENIED)))
    assert peer.session.closed is None
    peer.raw(note(Note(7, ErrorCode.DENIED)))  # there never was one
    assert peer.session.closed is not None


def test_a_stop_that_comes_after_everything_was_received_is_no_news() -> None:
    peer = ours()
    channel = peer.opened()
    peer.session.finish(channel)
    peer.heard()
    peer.say(PING, ACK, 0, peer.receipt().length)
    assert peer.events() == [EventKind.FINISHED]
    peer.raw(note(Note(1, ErrorCode.DENIED, "", orp.RECEIVED)))
    assert channel.outgoing.acknowledged
    assert channel.outgoing.error is None


# --- early ends, with a peer that knows yamux alone --------------------------------------


def test_a_reset_by_a_plain_peer_is_cancelled_both_ways() -> None:
    peer = plain()
    channel = peer.opened()
    peer.say(UPDATE, RST, 1)
    assert code_of(lambda: peer.session.read(channel, 1, 0.0)) is ErrorCode.CANCELLED
    assert code_of(lambda: peer.session.write(channel, b"x")) is ErrorCode.CANCELLED
    assert peer.heard() == []


def test_a_reset_behind_the_end_leaves_what_came_before() -> None:
    peer = plain()
    channel = peer.opened()
    peer.say(DATA, FIN, 1, payload=b"whole")
    peer.say(UPDATE, RST, 1)
    assert peer.session.read(channel, 100, 0.0) == b"whole"
    assert peer.session.read(channel, 100, 0.0) == b""
    assert code_of(lambda: peer.session.write(channel, b"x")) is ErrorCode.CANCELLED


def test_our_reset_ends_both_directions() -> None:
    peer = plain()
    channel = peer.opened()
    assert peer.session.read(channel, 1, 0.0) is None
    peer.session.reset(channel, ErrorCode.DENIED)
    assert peer.heard() == []
    peer.session.handle_timeout(RST_DELAY)
    assert peer.heard() == [Frame(UPDATE, RST, 1, 0)]
    assert peer.events() == [EventKind.FINISHED, EventKind.READABLE]
    assert code_of(lambda: peer.session.read(channel, 1, 0.0)) is ErrorCode.DENIED
    peer.say(DATA, 0, 1, payload=bytes(WINDOW))  # was under way
    assert peer.session.closed is None


def test_our_reset_leaves_a_direction_that_has_ended() -> None:
    peer = plain()
    channel = peer.opened()
    peer.say(DATA, FIN, 1, payload=b"whole")
    peer.session.reset(channel, ErrorCode.DENIED)
    assert peer.heard() == []
    peer.session.handle_timeout(RST_DELAY)
    assert peer.heard() == [Frame(UPDATE, RST, 1, 0)]
    assert peer.session.read(channel, 100, 0.0) == b"whole"


def test_a_reset_of_the_peers_has_the_code_that_was_told_elsewhere() -> None:
    peer = plain()
    channel, other = peer.opened(1), peer.opened(3)
    channel.told = ErrorCode.LEG_LOST
    for number in (1, 3):
        peer.say(UPDATE, RST, number)
    assert code_of(lambda: peer.session.read(channel, 1, 0.0)) is ErrorCode.LEG_LOST
    assert code_of(lambda: peer.session.write(channel, b"x")) is ErrorCode.LEG_LOST
    assert code_of(lambda: peer.session.read(other, 1, 0.0)) is ErrorCode.CANCELLED


def test_a_stop_waits_for_our_end_and_the_peers_grace() -> None:
    peer = plain()
    channel = peer.opened()
    peer.session.stop(channel, ErrorCode.DENIED)
    assert peer.heard() == []
    for now in (2.0, 4.0):  # our direction is open: a reset would cut it off
        assert peer.session.next_deadline() == now
        peer.session.handle_timeout(now)
        assert peer.heard() == []
    peer.session.write(channel, b"all")
    peer.session.finish(channel)
    assert [frame.flags for frame in peer.heard()[:2]] == [0, FIN]
    peer.session.handle_timeout(5.9)
    assert all(frame.kind == PING for frame in peer.heard())
    peer.session.handle_timeout(6.0)
    assert Frame(UPDATE, RST, 1, 0) in peer.heard()
    assert not peer.session._table
    assert not peer.session._endings._lingering


def test_a_stop_of_a_peer_that_ends_by_itself_needs_no_reset() -> None:
    peer = plain()
    channel = peer.opened()
    peer.session.stop(channel, ErrorCode.DENIED)
    peer.heard()
    peer.say(UPDATE, FIN, 1)
    peer.session.handle_timeout(2.0)
    assert all(frame.kind == PING for frame in peer.heard())
    assert not peer.session._endings._lingering

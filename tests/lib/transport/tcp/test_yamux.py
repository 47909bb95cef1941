"""The session against a peer made of frames: what it answers, and what it does not put up with."""

from __future__ import annotations

import pytest

from outrelay.lib.errors import Closed, ErrorCode, LocalProtocolError
from outrelay.lib.transport.carrier import WRITE_BUFFER
from outrelay.lib.transport.tcp import table, yamux
from outrelay.lib.transport.tcp.channel import INITIAL_WINDOW, PARTS, WINDOW
from outrelay.lib.transport.tcp.endings import RST_DELAY
from outrelay.lib.transport.tcp.pulse import HELLO
from outrelay.lib.transport.tcp.yamux import EventKind, Session
from outrelay.lib.transport.tcp.yamux_frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    PING,
    RST,
    SYN,
    UPDATE,
    Note,
    farewell,
    header,
)
from tests.support.yamux_peer import (
    Frame,
    YamuxPeer,
    code_of,
    frames_in,
    notes_in,
    opened_by_us,
    ours,
    output,
    plain,
)

GRANT = WINDOW - INITIAL_WINDOW
CLIENT_HELLO = [Frame(PING, SYN, 0, HELLO)]


def fault(peer: YamuxPeer) -> tuple[ErrorCode, str]:
    """How the session ended: by us, for something the peer did; and that it was told so."""
    closed = peer.session.closed
    assert closed is not None
    assert not closed.by_peer
    assert not closed.lost
    assert peer.events()[-1] is EventKind.LOST
    *_, said, gone = peer.heard()
    assert notes_in([said]) == [Note(0, closed.code, closed.reason)]
    assert gone.kind == GO_AWAY
    return closed.code, closed.reason


# --- streams -----------------------------------------------------------------------------


@pytest.mark.parametrize(("dialled", "numbers"), [(True, [1, 3, 5]), (False, [2, 4, 6])])
def test_ids_of_either_side(dialled: bool, numbers: list[int]) -> None:
    session = Session(dialled=dialled, now=0.0)
    channels = [session.open() for _ in range(3)]
    assert [channel.number for channel in channels if channel] == numbers
    assert [channel.id for channel in channels if channel] == [number - 1 for number in numbers]
    *heard, _ = frames_in(output(session))
    assert heard == [Frame(UPDATE, SYN, number, GRANT) for number in numbers]


def test_a_stream_is_acknowledged_soon_with_a_window() -> None:
    peer = plain()
    peer.now = 5.0
    peer.say(UPDATE, SYN, 1)
    peer.now += 0.001
    peer.say(UPDATE, SYN, 3)
    assert peer.events() == [EventKind.OPENED] * 2
    assert not peer.session.has_output
    assert peer.heard() == []
    assert peer.session.next_deadline() == 5.0 + yamux.ACK_DELAY
    peer.session.handle_timeout(5.0 + yamux.ACK_DELAY)
    assert peer.heard() == [Frame(UPDATE, ACK, 1, GRANT), Frame(UPDATE, ACK, 3, GRANT)]


def test_a_stream_is_acknowledged_before_anything_else_is_said() -> None:
    peer = plain()
    peer.say(UPDATE, SYN, 1)
    (event,) = peer.session.events()
    assert event.channel is not None
    peer.session.write(event.channel, b"answer")
    assert [frame.flags for frame in peer.heard()] == [ACK, 0]
    peer.session.handle_timeout(yamux.ACK_DELAY)
    assert peer.heard() == []


def test_a_stream_may_begin_with_data_and_end_with_it() -> None:
    peer = plain()
    peer.say(DATA, SYN | FIN, 1, payload=b"all")
    (event,) = peer.session.events()
    assert event.channel is not None
    assert peer.session.read(event.channel, 100, 0.0) == b"all"
    assert peer.session.read(event.channel, 100, 0.0) == b""


def test_bytes_go_both_ways() -> None:
    peer = plain()
    channel = peer.opened()
    assert peer.session.read(channel, 10, 0.0) is None
    peer.say(DATA, 0, 1, payload=b"there")
    assert peer.events() == [EventKind.READABLE]
    assert peer.session.read(channel, 10, 0.0) == b"there"
    assert peer.session.write(channel, b"back")
    assert peer.heard() == [Frame(DATA, 0, 1, 4, b"back")]


def test_a_reader_that_does_not_wait_is_not_woken() -> None:
    peer = plain()
    channel = peer.opened()
    peer.say(DATA, 0, 1, payload=b"unasked")
    peer.say(UPDATE, FIN, 1)
    assert peer.events() == []
    assert peer.session.read(channel, 10, 0.0) == b"unasked"


def test_a_waiting_reader_is_woken_by_the_end() -> None:
    peer = plain()
    channel = peer.opened()
    assert peer.session.read(channel, 10, 0.0) is None
    peer.say(UPDATE, FIN, 1)
    assert peer.events() == [EventKind.READABLE]
    assert peer.session.read(channel, 10, 0.0) == b""


@pytest.mark.parametrize("size", [1, 5, 11, 12, 13, 100_000])
def test_frames_cut_anywhere(size: int) -> None:
    peer = plain()
    data = (
        header(UPDATE, SYN, 1, 0)
        + header(DATA, 0, 1, 5)
        + b"hello"
        + header(PING, SYN, 0, 77)
        + header(DATA, FIN, 1, 6)
        + b" world"
    )
    for start in range(0, len(data), size):
        peer.raw(data[start : start + size])
    (event,) = peer.session.events()
    assert event.channel is not None
    assert peer.session.read(event.channel, 100, 0.0) == b"hello world"
    assert peer.session.read(event.channel, 100, 0.0) == b""
    assert Frame(PING, ACK, 0, 77) in peer.heard()


def test_the_end_is_a_frame_of_its_own_behind_the_data() -> None:
    peer = plain()
    channel = peer.opened()
    peer.session.write(channel, b"last")
    peer.session.finish(channel)
    peer.session.finish(channel)
    assert peer.heard()[:2] == [Frame(DATA, 0, 1, 4, b"last"), Frame(UPDATE, FIN, 1, 0)]
    with pytest.raises(LocalProtocolError):
        peer.session.write(channel, b"more")


def test_the_end_waits_for_credit_of_the_data_before_it() -> None:
    peer = plain()
    channel = peer.opened()
    peer.session.write(channel, bytes(INITIAL_WINDOW + 1))
    peer.session.finish(channel)
    assert [frame.flags for frame in peer.heard()] == [0, 0]
    peer.say(UPDATE, 0, 1, 1)
    assert [(frame.flags, frame.length) for frame in peer.heard()[:2]] == [(0, 1), (FIN, 0)]


def test_no_frame_is_larger_than_a_turn() -> None:
    peer = plain()
    channel = peer.opened()
    peer.say(UPDATE, 0, 1, 10 << 20)
    peer.session.write(channel, bytes(1 << 20))
    sizes = [frame.length for frame in peer.heard()]
    assert sum(sizes) == 1 << 20
    assert max(sizes) == yamux.PAYLOAD_MAX


def test_streams_take_turns() -> None:
    peer = plain()
    first, second, third = (peer.opened(number) for number in (1, 3, 5))
    peer.say(UPDATE, 0, 1, 10 << 20)
    peer.session.write(first, bytes(1 << 20))
    peer.session.write(second, b"small")
    peer.session.write(third, b"small")
    assert [frame.stream for frame in peer.heard()] == [1, 3, 5, 1, 1, 1, 1]


def test_what_is_said_of_the_others_does_not_wait_for_them() -> None:
    peer = plain()
    control, *others = (peer.opened(number) for number in (1, 3, 5))
    for other in others:
        peer.session.write(other, bytes(1 << 20))
    peer.session.write(control, b"small")
    assert [frame.stream for frame in peer.heard()][:3] == [1, 3, 5]


def test_a_writer_waits_for_room() -> None:
    peer = plain()
    channel = peer.opened()
    peer.session.write(channel, bytes(INITIAL_WINDOW))
    peer.heard()
    assert peer.session.write(channel, bytes(WRITE_BUFFER - 1))
    assert not peer.session.write(channel, b"xx")
    assert peer.events() == []
    peer.say(UPDATE, 0, 1, 1)
    peer.heard()
    assert peer.events() == [EventKind.WRITABLE]


def test_credit_goes_back_as_it_is_read() -> None:
    peer = plain()
    channel = peer.opened()
    part = WINDOW // PARTS
    peer.say(DATA, 0, 1, payload=bytes(part))
    assert peer.heard() == []
    peer.session.read(channel, part - 1, 0.0)
    assert peer.heard() == []
    peer.session.read(channel, 1, 0.0)
    assert peer.session.has_output
    assert peer.heard() == [Frame(UPDATE, 0, 1, part)]


def test_windows_of_a_session_grow_within_a_budget() -> None:
    peer = plain()
    for number in range(1, 2 * 100, 2):
        peer.say(UPDATE, SYN, number)
    peer.session.handle_timeout(yamux.ACK_DELAY)
    grants = [frame.length for frame in peer.heard()]
    assert grants[0] == GRANT
    assert sum(grants) == table.GROWTH_MAX
    assert grants[-1] == 0
    peer.say(UPDATE, RST, 1)
    peer.say(UPDATE, SYN, 999)
    peer.session.handle_timeout(yamux.ACK_DELAY)
    assert peer.heard() == [Frame(UPDATE, ACK, 999, GRANT)]


def test_a_fast_path_with_a_long_way_gets_a_larger_window() -> None:
    peer = plain()
    peer.session._pulse.rtt = 0.2
    channel = peer.opened()
    grown = 0
    for turn in range(40):
        half = channel.incoming.window // 2
        peer.say(DATA, 0, 1, payload=bytes(half))
        peer.session.read(channel, half, turn * 0.1)
        grown += sum(frame.length for frame in peer.heard()) - half
    assert grown == (16 << 20) - WINDOW
    assert peer.session._table._grown == (16 << 20) - INITIAL_WINDOW
    peer.say(UPDATE, RST, 1)
    assert peer.session._table._grown == 0


# --- opening -----------------------------------------------------------------------------


def test_no_more_streams_than_a_plain_peer_takes_unacknowledged() -> None:
    peer = plain(dialled=True)
    channels = [peer.session.open() for _ in range(256)]
    assert all(channels)
    assert peer.session.open() is None
    peer.say(UPDATE, ACK, 1)
    peer.say(UPDATE, ACK, 1)  # once is enough
    assert peer.events() == [EventKind.AVAILABLE]
    assert peer.session.open() is not None
    assert peer.session.open() is None


def test_an_unacknowledged_stream_that_is_refused_makes_room() -> None:
    peer = plain(dialled=True)
    for _ in range(table.UNACKNOWLEDGED):
        peer.session.open()
    assert peer.session.open() is None
    peer.say(UPDATE, RST, 1)
    assert EventKind.AVAILABLE in peer.events()
    assert peer.session.open() is not None


def test_streams_at_once_are_limited() -> None:
    peer = plain(dialled=True)
    for _ in range(table.STREAMS):
        opened_by_us(peer)
    assert peer.session.open() is None
    peer.say(UPDATE, RST, 1)
    assert EventKind.AVAILABLE in peer.events()
    assert peer.session.open() is not None


def test_too_many_streams_of_the_peer_are_refused() -> None:
    peer = plain()
    for number in range(1, 2 * table.STREAMS, 2):
        peer.opened(number)
    over = 2 * table.STREAMS + 1
    peer.say(UPDATE, SYN, over)
    assert peer.heard() == [Frame(UPDATE, RST, over, 0)]
    assert peer.events() == []
    peer.say(DATA, 0, over, payload=bytes(INITIAL_WINDOW))  # was under way
    assert peer.session.closed is None
    peer.say(UPDATE, RST, 1)
    peer.opened(over + 2)


def test_a_peer_that_leaves_takes_no_new_streams() -> None:
    peer = plain(dialled=True)
    channel = opened_by_us(peer)
    for _ in range(table.UNACKNOWLEDGED):
        peer.session.open()
    assert peer.session.open() is None
    peer.say(GO_AWAY, 0, 0, 0)
    assert peer.events() == [EventKind.AVAILABLE]
    with pytest.raises(Closed) as closed:
        peer.session.open()
    assert closed.value.by_peer
    peer.say(DATA, 0, 1, payload=b"goes on")
    assert peer.session.read(channel, 100, 0.0) == b"goes on"


def test_ids_run_out_some_day() -> None:
    session = Session(dialled=True, now=0.0)
    session._table._next = table.LAST_ID
    assert session.open() is not None
    with pytest.raises(Closed, match="ids"):
        session.open()


# --- receipts and pings ------------------------------------------------------------------


def test_both_sides_say_hello_first_of_all() -> None:
    for dialled in (True, False):
        session = Session(dialled=dialled, now=0.0)
        assert session.has_output
        assert list(frames_in(output(session))) == CLIENT_HELLO
        assert not session.has_output


def test_pings_are_answered_with_their_value() -> None:
    peer = plain()
    for value in (0, 7, HELLO, (1 << 32) - 1):
        peer.say(PING, SYN, 0, value)
        assert peer.heard() == [Frame(PING, ACK, 0, value)]


def test_finished_means_that_a_ping_behind_the_end_was_answered() -> None:
    peer = plain()
    first, second = peer.opened(1), peer.opened(3)
    peer.session.write(first, b"data")
    peer.session.finish(first)
    peer.session.finish(second)
    assert [frame.kind for frame in peer.heard()] == [DATA, UPDATE, UPDATE]
    ping = peer.receipt()
    peer.say(PING, ACK, 0, ping.length + 1)
    assert peer.events() == []
    peer.say(PING, ACK, 0, ping.length)
    assert peer.events() == [EventKind.FINISHED] * 2
    assert first.outgoing.acknowledged


def test_what_was_stopped_before_it_was_received_is_not_finished() -> None:
    peer = plain()
    channel = peer.opened()
    peer.session.finish(channel)
    peer.heard()
    ping = peer.receipt()
    peer.say(UPDATE, RST, 1)
    assert peer.events() == [EventKind.FINISHED]
    peer.say(PING, ACK, 0, ping.length)
    assert peer.events() == []
    assert not channel.outgoing.acknowledged


@pytest.mark.parametrize("frame", [header(PING, SYN, 0, 1), header(UPDATE, SYN, 1, 0)])
def test_the_first_frame_confirms(frame: bytes) -> None:
    session = Session(dialled=False, now=0.0)
    for _ in range(2):
        session.receive(memoryview(frame), 0.0)
        if session.closed:
            break
    kinds = [event.kind for event in session.events()]
    assert kinds[0] is EventKind.CONFIRMED
    assert kinds.count(EventKind.CONFIRMED) == 1


def test_a_farewell_confirms_nothing() -> None:
    session = Session(dialled=True, now=0.0)
    session.receive(memoryview(farewell(ErrorCode.DENIED, "not you")), 0.0)
    assert [event.kind for event in session.events()] == [EventKind.LOST]
    assert session.closed is not None
    assert (session.closed.code, session.closed.reason) == (ErrorCode.DENIED, "not you")
    assert session.closed.by_peer


def test_a_silent_peer_is_dead() -> None:
    peer = plain()
    channel = peer.opened()
    assert peer.session.read(channel, 1, 0.0) is None
    peer.session.handle_timeout(9.9)
    before = peer.session.closed
    peer.session.handle_timeout(10.0)
    peer.session.handle_timeout(11.0)
    closed = peer.session.closed
    assert before is None
    assert closed is not None
    assert closed.lost
    assert peer.events() == [EventKind.READABLE, EventKind.FINISHED, EventKind.LOST]
    assert peer.heard() == []
    assert peer.session.next_deadline() is None


def test_a_sign_of_life_counts() -> None:
    peer = plain()
    peer.session.alive(5.0)
    assert peer.session.next_deadline() == 10.0  # time for a ping
    peer.session.handle_timeout(14.9)
    assert peer.session.closed is None
    assert peer.session.is_ping_due
    assert [frame.kind for frame in frames_in(output(peer.session, 14.9))] == [PING]
    assert peer.session.next_deadline() == 15.0


# --- the session's end -------------------------------------------------------------------


def test_close_says_why_and_ends_everything() -> None:
    peer = ours()
    channel = peer.opened()
    assert peer.session.read(channel, 1, 0.0) is None
    assert not peer.session.write(channel, bytes(1 << 20))
    peer.session.close(ErrorCode.DRAIN, "going down")
    peer.session.close(ErrorCode.DENIED, "too late")
    assert peer.events() == [
        EventKind.READABLE,
        EventKind.WRITABLE,
        EventKind.FINISHED,
        EventKind.LOST,
    ]
    said, gone = peer.heard()
    assert notes_in([said]) == [Note(0, ErrorCode.DRAIN, "going down")]
    assert gone == Frame(GO_AWAY, 0, 0, 0)
    for call in (
        lambda: peer.session.read(channel, 1, 0.0),
        lambda: peer.session.write(channel, b"x"),
        peer.session.open,
    ):
        with pytest.raises(Closed):
            call()


def test_after_the_end_nothing_happens() -> None:
    peer = ours()
    channel, whole = peer.opened(1), peer.opened(3)
    peer.say(DATA, FIN, 3, payload=b"whole")
    peer.session.close(ErrorCode.NONE, "")
    peer.heard()
    peer.events()
    for each in (channel, whole):
        peer.session.finish(each)
        peer.session.reset(each, ErrorCode.DENIED)
        peer.session.stop(each, ErrorCode.DENIED)
    peer.say(DATA, 0, 1, payload=b"late")
    peer.session.handle_timeout(99.0)
    peer.session.lose(Closed(lost=True))
    assert peer.events() == []
    assert peer.heard() == []
    assert not peer.session.has_output


def test_what_had_ended_before_the_session_did_is_still_read() -> None:
    peer = plain()
    channel = peer.opened()
    peer.session.finish(channel)
    peer.say(DATA, FIN, 1, payload=b"whole")
    peer.heard()
    ping = peer.receipt()
    peer.session.lose(Closed(lost=True))
    assert peer.session.read(channel, 100, 0.0) == b"whole"
    assert peer.session.read(channel, 100, 0.0) == b""
    assert isinstance(channel.outgoing.error, Closed)  # nobody said that it was received
    peer.say(PING, ACK, 0, ping.length)
    assert not channel.outgoing.acknowledged


def test_what_was_received_is_finished_also_when_the_session_ends() -> None:
    peer = plain()
    channel = peer.opened()
    peer.session.finish(channel)
    peer.heard()
    peer.say(PING, ACK, 0, peer.receipt().length)
    peer.session.lose(Closed(lost=True))
    assert channel.outgoing.error is None


@pytest.mark.parametrize(
    ("why", "code"),
    [(1, ErrorCode.PROTOCOL), (2, ErrorCode.INTERNAL), (3, ErrorCode.CANCELLED)],
)
def test_a_peer_that_goes_away_for_a_reason(why: int, code: ErrorCode) -> None:
    peer = plain()
    peer.say(GO_AWAY, 0, 0, why)
    closed = peer.session.closed
    assert closed is not None
    assert closed.by_peer
    assert closed.code is code
    assert peer.heard() == []


def test_what_comes_behind_a_farewell_is_not_looked_at() -> None:
    peer = ours()
    peer.raw(farewell(ErrorCode.REPLACED, "anew") + b"\xff" * 100)
    assert peer.session.closed is not None
    assert peer.session.closed.code is ErrorCode.REPLACED


# --- what breaks the rules ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (b"\x01" + header(PING, SYN, 0, 0)[1:], "version 1"),
        (header(4, 0, 1, 0), "kind 4"),
        (header(UPDATE, SYN, 2, 0), "not the peer's"),
        (header(UPDATE, SYN, 0, 0), "not the peer's"),
        (header(UPDATE, SYN, 5, 0), "opened before"),
        (header(UPDATE, SYN, 3, 0), "opened before"),
        (header(UPDATE, 0, 7, 0), "nobody opened"),
        (header(UPDATE, 0, 2, 0), "nobody opened"),
        (header(DATA, 0, 7, 1), "nobody opened"),
        (header(DATA, 0, 5, WINDOW + 1), "window"),
        (header(DATA, SYN, 7, WINDOW + 1), "window"),
        (header(UPDATE, 0, 5, (1 << 32) - 1), "32 bits"),
        (header(UPDATE, FIN, 5, 0) + header(DATA, 0, 5, 1), "after the end"),
        (header(DATA, 0, 0, 4096), "a note of 4096 bytes"),
        (header(DATA, 0, 0, 4) + b"what", "length|version|note"),
        (header(UPDATE, RST, 5, 0) + header(DATA, 0, 5, 1), "have ended"),
    ],
)
def test_a_peer_that_breaks_the_rules(frame: bytes, words: str) -> None:
    peer = plain()
    peer.opened(5)
    peer.raw(frame)
    code, reason = fault(peer)
    assert code is ErrorCode.PROTOCOL
    assert any(word in reason for word in words.split("|"))


def test_the_dialling_side_keeps_its_ids_to_itself() -> None:
    peer = plain(dialled=True)
    peer.say(UPDATE, SYN, 1)
    assert "not the peer's" in fault(peer)[1]


def test_the_dialling_sides_peer_begins_at_two() -> None:
    peer = plain(dialled=True)
    peer.say(UPDATE, SYN, 0)
    assert "opened before" in fault(peer)[1]


def test_an_empty_note_says_nothing() -> None:
    peer = plain()
    peer.say(DATA, 0, 0)
    assert peer.session.closed is None


def test_a_second_end_is_forgiven() -> None:
    peer = plain()
    peer.opened()
    for _ in range(3):
        peer.say(UPDATE, FIN, 1)
    assert peer.session.closed is None


def test_strays_are_bounded_by_what_was_granted() -> None:
    peer = plain()
    channel = peer.opened()
    peer.say(DATA, 0, 1, payload=bytes(1000))
    peer.session.reset(channel, ErrorCode.DENIED)
    peer.heard()
    peer.session.handle_timeout(RST_DELAY)
    peer.heard()
    peer.say(DATA, 0, 1, payload=bytes(WINDOW - 1000))
    assert peer.session.closed is None
    peer.say(DATA, 0, 1, payload=b"x")
    assert "have ended" in fault(peer)[1]


def test_a_flood_of_frames_that_carry_nothing() -> None:
    peer = plain()
    peer.opened()
    flood = header(DATA, 0, 1, 0) + header(UPDATE, 0, 1, 0)
    turns = 0
    while peer.session.closed is None:
        peer.raw(flood * 1000)
        turns += 1
    assert fault(peer)[0] is ErrorCode.LIMIT
    assert turns * 2000 <= yamux.FRAMES_AT_ONCE + 2000


def test_many_frames_over_time_are_no_flood() -> None:
    peer = plain()
    peer.opened()
    for second in range(10):
        peer.now = float(second)
        peer.raw(header(UPDATE, 0, 1, 0) * (yamux.FRAMES_PER_SECOND - 10))
    assert peer.session.closed is None


def test_answers_that_nobody_reads_are_bounded() -> None:
    peer = plain()
    while peer.session.closed is None:
        peer.raw(header(PING, SYN, 0, 1) * 500)
        assert len(peer.session._control) <= yamux.UNREAD_MAX + 500 * 12
    assert peer.session.closed.code is ErrorCode.LIMIT


def test_bytes_that_wait_for_readers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamux, "HELD_MAX", 3 * WINDOW)
    peer = ours()
    channels = [peer.opened(number) for number in (1, 3, 5, 7)]
    for channel in channels[:3]:
        peer.say(DATA, 0, channel.number, payload=bytes(WINDOW))
    assert peer.heard() == []
    peer.say(DATA, 0, 7, payload=b"too much")
    assert notes_in(peer.heard()) == [Note(7, ErrorCode.LIMIT), (RST, 7)]
    assert code_of(lambda: peer.session.read(channels[3], 1, 0.0)) is ErrorCode.LIMIT
    for channel in channels[:3]:
        while peer.session.read(channel, WINDOW, 0.0):
            pass
    assert peer.session._table.held == 0


def test_what_a_forgotten_stream_holds_is_its_readers_business() -> None:
    peer = plain()
    channel = peer.opened()
    peer.session.finish(channel)
    peer.say(DATA, FIN, 1, payload=b"whole")
    peer.heard()
    assert not peer.session._table
    assert peer.session._table.held == 0
    assert peer.session.read(channel, 100, 0.0) == b"whole"
    peer.session.stop(channel, ErrorCode.DENIED)
    assert peer.session._table.held == 0

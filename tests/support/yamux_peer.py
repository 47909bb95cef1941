"""A peer of a yamux session made of raw frames, as any other implementation could send them.

peer = YamuxPeer(session)              # a plain one, which dials
peer.say(UPDATE, SYN, 1)
assert peer.heard() == [Frame(UPDATE, ACK, 1, credit)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from outrelay.lib.errors import ErrorCode, Reset
from outrelay.lib.transport.tcp.channel import Channel
from outrelay.lib.transport.tcp.pulse import HELLO, RECEIPT_DELAY
from outrelay.lib.transport.tcp.yamux import ACK_DELAY, EventKind, Session
from outrelay.lib.transport.tcp.yamux_frames import (
    ACK,
    DATA,
    HEADER,
    HEADER_SIZE,
    PING,
    SYN,
    UPDATE,
    header,
    parse_note,
)


class Frame(NamedTuple):
    """One frame."""

    kind: int
    flags: int
    stream: int
    length: int
    payload: bytes = b""


def frames_in(data: bytes) -> Iterator[Frame]:
    """The frames that ``data`` is, all of it."""
    at = 0
    while at < len(data):
        version, kind, flags, stream, length = HEADER.unpack_from(data, at)
        assert version == 0
        at += HEADER_SIZE
        size = length if kind == DATA else 0
        assert at + size <= len(data), "a frame is cut off"
        yield Frame(kind, flags, stream, length, data[at : at + size])
        at += size


def output(session: Session, now: float = 0.0) -> bytes:
    """All that a session has to say now."""
    said = bytearray()
    while data := b"".join(session.data_to_send(now)):
        said += data
    return bytes(said)


class YamuxPeer:
    """Talks to ``session``.

    Args:
        session: Ours, under test.
        takes_notes: Whether the peer is one of ours.
    """

    def __init__(self, session: Session, *, takes_notes: bool = False) -> None:
        self.session = session
        self.now = 0.0
        if takes_notes:
            self.say(PING, SYN, 0, HELLO)
        for frame in frames_in(output(session)):
            if frame.kind == PING and frame.flags == SYN:
                self.say(PING, ACK, 0, frame.length)
        session.events()
        self.heard()

    def say(
        self, kind: int, flags: int, stream: int, length: int = 0, payload: bytes = b""
    ) -> None:
        """Send one frame; a data frame is as long as its payload."""
        length = len(payload) if kind == DATA and payload else length
        self.raw(header(kind, flags, stream, length) + payload)

    def raw(self, data: bytes) -> None:
        """Send bytes."""
        self.session.receive(memoryview(data), self.now)

    def heard(self) -> list[Frame]:
        """What the session has said since the last time."""
        return list(frames_in(output(self.session, self.now)))

    def receipt(self) -> Frame:
        """Let the session ask whether everything was received; the ping, not yet answered."""
        self.now += RECEIPT_DELAY
        self.session.handle_timeout(self.now)
        (ping,) = self.heard()
        assert (ping.kind, ping.flags) == (PING, SYN)
        return ping

    def opened(self, stream: int = 1, flags: int = 0) -> Channel:
        """Open a stream, which the session acknowledges; its end of it."""
        self.say(1, SYN | flags, stream)
        self.session.handle_timeout(self.now + ACK_DELAY)
        kinds = [event for event in self.session.events() if event.kind is EventKind.OPENED]
        assert len(kinds) == 1
        channel = kinds[0].channel
        assert channel is not None
        self.heard()
        return channel

    def events(self) -> list[EventKind]:
        """The kinds of what happened."""
        return [event.kind for event in self.session.events()]


def notes_in(heard: list[Frame]) -> list[object]:
    """The notes among frames, and the flags and streams of the others."""
    return [
        parse_note(frame.payload)
        if frame.kind == DATA and frame.stream == 0
        else (frame.flags, frame.stream)
        for frame in heard
    ]


def plain(*, dialled: bool = False, now: float = 0.0) -> YamuxPeer:
    """A peer without notes, of a session that was dialled by it unless said otherwise."""
    return YamuxPeer(Session(dialled=dialled, now=now))


def ours(*, dialled: bool = False) -> YamuxPeer:
    """A peer that takes notes."""
    return YamuxPeer(Session(dialled=dialled, now=0.0), takes_notes=True)


def opened_by_us(peer: YamuxPeer) -> Channel:
    """A stream that the session opened and the peer has acknowledged."""
    channel = peer.session.open()
    assert channel is not None
    peer.heard()
    peer.say(UPDATE, ACK, channel.number)
    return channel


def code_of(call: Callable[[], object]) -> ErrorCode:
    """The code of the reset that ``call`` raises."""
    with pytest.raises(Reset) as reset:
        call()
    return reset.value.code

"""A session of another implementation of yamux, played again with ours as either side.

vectors/yamux-session.jsonl has its frames in order. The recorded side's frames are fed to our
session; where the other side said something, an application of ours does what made it say that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from outrelay.lib.errors import ErrorCode
from outrelay.lib.transport.tcp import yamux_frames as frames
from outrelay.lib.transport.tcp.channel import Channel
from outrelay.lib.transport.tcp.yamux import EventKind, Session

VECTORS = Path(__file__).parent / "vectors" / "yamux-session.jsonl"
LARGE = 300 * 1024
KINDS = {"data": frames.DATA, "window": frames.UPDATE, "ping": frames.PING, "goaway": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One frame of the recording."""

    sender: str
    kind: int
    flags: tuple[str, ...]
    stream: int
    length: int
    header: bytes
    first: int

    @property
    def form(self) -> tuple[int, int]:
        """What its header is, lengths and streams aside."""
        return self.kind, int.from_bytes(self.header[2:4], "big")

    def payload(self, sent: int) -> bytes:
        """What followed the header: a greeting, or the next part of a pattern."""
        if self.length > 11:
            part = bytes((sent + at) % 251 for at in range(self.length))
            assert part[0] == self.first
            return part
        return bytes([self.first]) * self.length


def recording() -> Iterator[Recorded]:
    for line in VECTORS.read_text().splitlines():
        row = json.loads(line)
        yield Recorded(
            sender=row["from"],
            kind=KINDS[row["kind"]],
            flags=tuple(row["flags"] or ()),
            stream=row["stream"],
            length=row["length"],
            header=bytes.fromhex(row["header"]),
            first=row.get("payload_first", 0),
        )


@dataclass(slots=True)
class Player:
    """Our side, and the application that does what the recorded one did."""

    session: Session
    channels: dict[int, Channel] = field(default_factory=dict)
    got: dict[int, bytearray] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    said: bytearray = field(default_factory=bytearray)

    def hear(self, frame: Recorded, sent: int) -> None:
        data = frame.header
        if frame.kind == frames.DATA:
            data += frame.payload(sent)
        self.session.receive(memoryview(data), 0.0)
        self.rest()

    def act(self, frame: Recorded, sent: int) -> None:
        """Do what made the recorded side send ``frame``; answers come by themselves."""
        match frame.kind, frame.flags:
            case frames.UPDATE, ("SYN",):
                channel = self.session.open()
                assert channel is not None
                self.adopt(channel)
                assert channel.number == frame.stream
            case frames.UPDATE, ("FIN",):
                self.session.finish(self.channels[frame.stream])
            case frames.DATA, ():
                self.session.write(self.channels[frame.stream], frame.payload(sent))
            case frames.GO_AWAY, ():
                self.session.close(ErrorCode.NONE, "")
        self.rest()

    def adopt(self, channel: Channel) -> None:
        self.channels[channel.number] = channel
        self.got[channel.number] = bytearray()

    def rest(self) -> None:
        """Read all there is, and say all there is to say."""
        for event in self.session.events():
            if event.kind is EventKind.OPENED:
                assert event.channel is not None
                self.adopt(event.channel)
        for number, channel in self.channels.items():
            while data := self.session.read(channel, 1 << 20, 0.0):
                self.got[number] += data
            if data is not None:
                self.ended.add(number)
        while data := b"".join(self.session.data_to_send(0.0)):
            self.said += data


def parse(data: bytearray) -> Iterator[tuple[int, int, int, int]]:
    """Kind, flags, stream and length of every frame in ``data``."""
    at = 0
    while at < len(data):
        version, kind, flags, stream, length = frames.HEADER.unpack_from(data, at)
        assert version == 0
        yield kind, flags, stream, length
        at += frames.HEADER_SIZE + (length if kind == frames.DATA else 0)
    assert at == len(data)


@pytest.mark.parametrize("side", ["client", "server"])
def test_the_recorded_session_played_as_one_side(side: str) -> None:
    recorded = list(recording())
    player = Player(Session(dialled=side == "client", now=0.0))
    sent = {"client": 0, "server": 0}
    expected: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
    for frame in recorded:
        if frame.sender == side:
            player.act(frame, sent[side])
        else:
            player.hear(frame, sent[frame.sender])
            if frame.kind == frames.DATA:
                expected[frame.stream] += frame.payload(sent[frame.sender])
        if frame.kind == frames.DATA and frame.length > 11:
            sent[frame.sender] += frame.length
    assert player.got == expected
    assert player.ended == {1, 2}
    assert len(expected[1]) == (5 + LARGE if side == "server" else 5)
    own = {frame.form for frame in recorded if frame.sender == side}
    forms = {(kind, flags) for kind, flags, stream, _ in parse(player.said) if stream or kind > 1}
    assert own - {(frames.UPDATE, 0)} <= forms  # our window is larger: no credit is due yet
    assert forms <= {frame.form for frame in recorded}


def test_headers_are_those_of_the_recording() -> None:
    flags = {"SYN": frames.SYN, "ACK": frames.ACK, "FIN": frames.FIN, "RST": frames.RST}
    for frame in recording():
        ours = sum(flags[flag] for flag in frame.flags)
        assert frames.header(frame.kind, ours, frame.stream, frame.length) == frame.header

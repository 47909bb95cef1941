"""Sequences of operations that nobody thought of, on both ends, held against a simple model.

Whatever the two applications do, in any order, however the bytes between them are cut: what is
read is a prefix of what was written; a clean end is all of it; an early end has a code that
somebody gave; and nothing is left in either session. And whatever bytes come, a session raises
nothing: it ends, or it goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from outrelay.lib.errors import ErrorCode, Reset
from outrelay.lib.transport.tcp.channel import Channel
from outrelay.lib.transport.tcp.yamux import Session
from outrelay.lib.transport.tcp.yamux_frames import Note, header, note
from tests.support.virtual_yamux import End, Path, chunks_of
from tests.support.yamux_peer import YamuxPeer, output

CODES = {
    "near reset": ErrorCode.DENIED,
    "near stop": ErrorCode.LIMIT,
    "far reset": ErrorCode.DRAIN,
    "far stop": ErrorCode.EXPIRED,
}


@dataclass(slots=True)
class Half:
    """One direction of one stream, as its two applications know it.

    Args:
        name: Whose it is: ``near`` or ``far`` sends.
        writer, reader: The ends.
    """

    name: str
    writer: End
    reader: End
    sent: bytearray = field(default_factory=bytearray)
    got: bytearray = field(default_factory=bytearray)
    finished: bool = False
    ended: bool = False
    read_error: ErrorCode | None = None
    write_error: ErrorCode | None = None

    @property
    def other(self) -> str:
        return "far" if self.name == "near" else "near"

    def write(self, channel: Channel, size: int) -> None:
        if self.finished or channel.outgoing.full:
            return
        data = bytes((len(self.sent) + at) % 253 for at in range(size))
        try:
            self.writer.session.write(channel, data)
        except Reset as reset:
            self.write_error = reset.code
        else:
            self.sent += data

    def finish(self, channel: Channel) -> None:
        self.writer.session.finish(channel)
        self.finished = True

    def read(self, channel: Channel, limit: int, now: float) -> None:
        try:
            data = self.reader.session.read(channel, limit, now)
        except Reset as reset:
            self.read_error = reset.code
            return
        if data is not None:
            self.ended = self.ended or not data
            self.got += data

    def check(self) -> None:
        assert self.sent.startswith(self.got)
        allowed = {CODES[f"{self.name} reset"], CODES[f"{self.other} stop"]}
        assert {self.read_error, self.write_error} <= allowed | {None}
        if self.ended and self.read_error is None:
            assert self.got == self.sent
            assert self.finished


@dataclass(slots=True)
class Twin:
    """Both ends of one stream, as far as they know each other."""

    path: Path
    near: Channel
    far: Channel | None
    up: Half
    down: Half

    def do(self, end: str, operation: str, amount: int) -> None:
        channel = self.near if end == "near" else self.far
        if channel is None:
            return
        out, back = (self.up, self.down) if end == "near" else (self.down, self.up)
        session = out.writer.session
        match operation:
            case "write":
                out.write(channel, amount)
            case "read":
                back.read(channel, amount + 1, self.path.now)
            case "finish":
                out.finish(channel)
            case "reset":
                session.reset(channel, CODES[f"{end} reset"])
            case "stop":
                session.stop(channel, CODES[f"{end} stop"])

    def wind_up(self) -> None:
        """Let both sides come to the end of what they have not ended."""
        for end in ("near", "far"):
            self.do(end, "finish", 0)
        for _ in range(40):
            self.path.rest()
            for end in ("near", "far"):
                self.do(end, "read", 100_000)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["near", "far"]),
        st.sampled_from(["write", "write", "read", "read", "finish", "reset", "stop", "time"]),
        st.sampled_from([0, 1, 100, 20_000, 300_000]),
    ),
    max_size=40,
)


@settings(max_examples=200)
@given(STEPS, st.sampled_from([1, 11, 4096, 1 << 20]), st.sampled_from([0.0, 0.01]))
def test_whatever_two_applications_do(
    steps: list[tuple[int, str, str, int]], size: int, delay: float
) -> None:
    path = Path(delay=delay, cut=chunks_of(max(size, 11 if delay else 1)))
    path.run(0.1)
    twins = []
    for _ in range(4):
        near = path.near.session.open()
        assert near is not None
        up = Half("near", path.near, path.far)
        down = Half("far", path.far, path.near)
        twins.append(Twin(path, near, None, up, down))
    for number, end, operation, amount in steps:
        if operation == "time":
            path.run(amount / 1e6)
        for twin, channel in zip(twins, path.far.opened, strict=False):
            twin.far = channel
        twins[number].do(end, operation, min(amount, 5_000) if size == 1 else amount)
    path.rest()
    for twin, channel in zip(twins, path.far.opened, strict=True):
        twin.far = channel
        twin.wind_up()
        twin.up.check()
        twin.down.check()
    for side in (path.near, path.far):
        session = side.session
        assert session.closed is None
        assert not session._table
        assert (session._table.held, session._table._grown, session._table._ours) == (0, 0, 0)


FRAMES = st.one_of(
    st.builds(
        header,
        st.integers(0, 4),
        st.sampled_from([0, 1, 2, 3, 4, 6, 8, 12, 15, 0xFFFF]),
        st.sampled_from([0, 1, 2, 3, 4, 5, 7, 0xFFFFFFFE, 0xFFFFFFFF]),
        st.sampled_from([0, 1, 5, 12, 300, 262_144, 0xFFFFFFFF]),
    ),
    st.builds(
        lambda *said: note(Note(*said)),
        st.sampled_from([0, 1, 3, 9]),
        st.sampled_from(ErrorCode),
        st.text(max_size=5),
        st.sampled_from([0, 1, 2]),
    ),
    st.binary(max_size=40),
)


@settings(max_examples=500)
@given(st.lists(FRAMES, max_size=30), st.booleans(), st.booleans())
def test_whatever_a_peer_sends(parts: list[bytes], dialled: bool, takes_notes: bool) -> None:
    peer = YamuxPeer(Session(dialled=dialled, now=0.0), takes_notes=takes_notes)
    session = peer.session
    ours = session.open()
    assert ours is not None
    channels = [ours]
    for number, part in enumerate(parts):
        session.receive(memoryview(part), number / 10)
        channels += [event.channel for event in session.events() if event.channel is not None]
        for channel in channels[-3:]:
            if session.closed is None and channel.incoming.error is None:
                session.read(channel, 100, number / 10)
            session.stop(channel, ErrorCode.DENIED)
        output(session, number / 10)
        session.handle_timeout(number / 10)
    deadline = session.next_deadline()
    assert (deadline is None) == (session.closed is not None)

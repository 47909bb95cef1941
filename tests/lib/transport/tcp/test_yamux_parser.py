"""Frames come out as they were put in, however their bytes were cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.errors import RemoteProtocolError
from outrelay.lib.transport.tcp.yamux_frames import DATA, GO_AWAY, PING, UPDATE, header
from outrelay.lib.transport.tcp.yamux_parser import Parser
from tests.support.yamux_peer import Frame

FRAMES = st.one_of(
    st.builds(
        Frame,
        st.sampled_from([UPDATE, PING, GO_AWAY, 200]),
        st.integers(0, 0xFFFF),
        st.integers(0, 0xFFFFFFFF),
        st.integers(0, 0xFFFFFFFF),
        st.just(b""),
    ),
    st.builds(
        lambda flags, number, payload: Frame(DATA, flags, number, len(payload), payload),
        st.integers(0, 0xFFFF),
        st.integers(0, 0xFFFFFFFF),
        st.binary(max_size=60),
    ),
)


class Sink:
    """Puts parts together again."""

    def __init__(self, stop_after: int = 1000) -> None:
        self.frames: list[Frame] = []
        self.parser = Parser(self)
        self._begun: Frame | None = None
        self._parts: list[bytes] = []
        self._stop_after = stop_after

    def frame(self, kind: int, flags: int, number: int, length: int) -> None:
        assert self._begun is None
        frame = Frame(kind, flags, number, length)
        if kind == DATA:
            self._begun = frame
        else:
            self._add(frame)

    def payload(self, part: memoryview) -> None:
        assert len(part) > 0
        self._parts.append(bytes(part))

    def complete(self) -> None:
        assert self._begun is not None
        self._add(self._begun._replace(payload=b"".join(self._parts)))
        self._begun = None
        self._parts.clear()

    def _add(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.parser.is_stopped = len(self.frames) >= self._stop_after


def raw(frames: list[Frame]) -> bytes:
    return b"".join(header(*frame[:4]) + frame.payload for frame in frames)


@given(st.lists(FRAMES, max_size=12), st.lists(st.integers(1, 80), min_size=1))
def test_any_cut_gives_the_same_frames(frames: list[Frame], sizes: list[int]) -> None:
    data, sink = raw(frames), Sink()
    turn = 0
    while data:
        size = sizes[turn % len(sizes)]
        part = bytearray(data[:size])
        sink.parser.feed(memoryview(part))
        part[:] = bytes(len(part))  # nothing of it is kept
        data = data[size:]
        turn += 1
    assert sink.frames == frames


def test_whoever_has_heard_enough_hears_no_more() -> None:
    frames = [Frame(PING, 1, 0, number) for number in range(5)]
    sink = Sink(stop_after=2)
    sink.parser.feed(memoryview(raw(frames)))
    sink.parser.feed(memoryview(raw(frames)))
    assert sink.frames == frames[:2]


@pytest.mark.parametrize("size", [1, 12])
def test_another_version_is_no_yamux(size: int) -> None:
    sink, data = Sink(), b"\x01" + header(PING, 0, 0, 0)[1:]
    with pytest.raises(RemoteProtocolError, match="version 1"):
        for at in range(0, len(data), size):
            sink.parser.feed(memoryview(data[at : at + size]))


def test_what_is_missing_of_a_frame_is_known_as_it_comes() -> None:
    sink, data = Sink(), raw([Frame(DATA, 0, 1, 100, bytes(100)), Frame(PING, 1, 0, 7)])
    left = []
    for at in range(0, len(data), 31):
        sink.parser.feed(memoryview(data[at : at + 31]))
        left.append(sink.parser.left)
    assert left == [81, 50, 19, 0]

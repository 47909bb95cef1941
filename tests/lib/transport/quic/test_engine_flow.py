"""Credit: what a reader that stops holds up, and what it does not.

Source: engines.md and protocol.md section 1; RFC 9000 section 4.
"""

from __future__ import annotations

import random

import pytest

from outrelay.lib.transport.carrier import WRITE_BUFFER
from outrelay.lib.transport.quic.engine import (
    STREAM_WINDOW,
    STREAMS,
    Event,
    EventKind,
)
from outrelay.lib.transport.quic.engines import EngineChoice
from tests.lib.transport.quic.engines import agent, relay
from tests.lib.transport.quic.windows import window_after
from tests.support.virtual_quic import Datagram, End, Network, Path, Sink, Source

pytestmark = pytest.mark.usefixtures("each_engine")

ENDLESS = bytes(64 << 20)


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def ends(network: Network) -> tuple[End, End]:
    return network.connect(network.host(agent()), network.host(relay()))


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


# Writing


def test_a_write_takes_what_fits_and_says_when_there_is_room_again(
    network: Network, ends: tuple[End, End]
) -> None:
    near, _ = ends
    stream = near.must_open()
    engine = near.host.engine
    taken = engine.write(near.number, stream, memoryview(ENDLESS))  # before anything is sent

    assert taken == WRITE_BUFFER
    assert near.unsent(stream) == WRITE_BUFFER
    assert engine.write(near.number, stream, memoryview(b"more")) == 0
    assert not near.events(EventKind.WRITABLE)
    near.host.settle()
    network.run(lambda: bool(near.events(EventKind.WRITABLE)))
    assert near.unsent(stream) <= WRITE_BUFFER // 2
    assert near.write(stream, b"more") == 4


def test_a_write_that_was_taken_whole_is_followed_by_no_writable(
    network: Network, ends: tuple[End, End]
) -> None:
    near, far = ends
    stream = near.must_open()
    assert near.write(stream, bytes(WRITE_BUFFER)) == WRITE_BUFFER
    network.run_for(5.0)

    assert not near.events(EventKind.WRITABLE)
    assert len(far.read(stream)[0]) == WRITE_BUFFER


def test_bytes_on_the_way_do_not_count_as_unsent(network: Network, ends: tuple[End, End]) -> None:
    near, _ = ends
    stream = near.must_open()
    network.passes = lambda datagram: datagram.source == near.host.address  # no acknowledgement
    near.write(stream, payload(5_000))
    network.run_for(0.05)

    assert not near.events(EventKind.FINISHED)
    assert near.unsent(stream) == 0


def test_nothing_is_unsent_where_there_is_no_stream(ends: tuple[End, End]) -> None:
    near, _ = ends

    assert near.unsent(4) == 0
    assert near.host.engine.unsent(near.number + 1, 0) == 0


# A reader that stops


def test_a_reader_that_stops_stops_its_writer(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    stream = near.must_open()
    source = Source(near, stream, ENDLESS)
    network.run_for(5.0)

    assert source.written <= STREAM_WINDOW + WRITE_BUFFER
    assert source.written - near.unsent(stream) == STREAM_WINDOW
    data, fin = far.read(stream)
    assert (len(data), fin) == (STREAM_WINDOW, False)


@pytest.mark.parametrize(("streams", "loss"), [(20, 0.0), (2, 0.05)])
def test_stalled_streams_hold_up_nothing_else(streams: int, loss: float) -> None:
    network = Network(seed=5, path=Path(loss=loss))
    near, far = network.connect(network.host(agent()), network.host(relay()))
    stalled = [Source(near, near.must_open(), ENDLESS) for _ in range(streams)]
    whole = [STREAM_WINDOW] * streams  # twenty: more than the connection's first credit

    def sent() -> list[int]:
        return [source.written - near.unsent(source.stream) for source in stalled]

    network.run(lambda: sent() == whole, within=60.0)
    network.run_for(1.0)
    assert sent() == whole

    data = payload(300_000)
    assert network.transfer(near, far, data) == data
    assert network.transfer(far, near, data) == data


def test_who_says_little_does_not_wait_long_for_many_who_say_much(
    network: Network, ends: tuple[End, End]
) -> None:
    near, far = ends
    crowd = network.open(near, 100)
    little = near.must_open()
    sinks = [Sink(far, stream) for stream in crowd]
    for stream in crowd:
        Source(near, stream, ENDLESS)
    network.run(lambda: all(len(sink.data) > 100_000 for sink in sinks))
    sent = 0

    def is_early(datagram: Datagram) -> bool:
        nonlocal sent
        sent += datagram.source == near.host.address
        return datagram.source != near.host.address or sent < 3 * len(crowd)

    network.passes = is_early
    near.write(little, b"a word")
    network.run(lambda: bool(far.events(EventKind.STREAM_OPENED, little)), within=0.1)


def test_reading_gives_the_credit_back(
    network: Network, ends: tuple[End, End], each_engine: EngineChoice
) -> None:
    near, far = ends
    worth_it = STREAM_WINDOW // (8 if each_engine is EngineChoice.NATIVE else 2)
    stream = near.must_open()
    data = payload(4 << 20)
    source = Source(near, stream, data)
    sink = Sink(far, stream, reading=False)
    network.run_for(5.0)

    sink.resume(worth_it - 1)
    network.run_for(5.0)
    assert source.written - near.unsent(stream) == STREAM_WINDOW  # not worth a packet yet
    sink.resume(1)
    network.run_for(5.0)
    assert source.written - near.unsent(stream) == STREAM_WINDOW + worth_it

    sink.resume()
    network.run(lambda: sink.finished)
    assert sink.data == data


def test_the_window_stays_for_a_reader_that_is_slow(
    network: Network, ends: tuple[End, End]
) -> None:
    assert window_after(network, ends, pause=1.0) == STREAM_WINDOW


# Streams


def open_all(end: End, *, at_most: int = 2 * STREAMS) -> list[int]:
    streams: list[int] = []
    while len(streams) < at_most and (stream := end.open()) is not None:
        streams.append(stream)
    return streams


def test_a_peer_may_open_so_many_streams_at_once(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    began = network.now
    network.open(near, STREAMS)

    assert network.now - began < 3 * network.path.delay  # credit for most may take a round trip
    network.run(lambda: len(far.events(EventKind.STREAM_OPENED)) == STREAMS)
    assert near.open() is None
    assert far.open() is not None  # each side has credit of its own


def test_streams_that_are_done_with_are_credit_for_others(
    network: Network, ends: tuple[End, End]
) -> None:
    near, far = ends
    streams = network.open(near, STREAMS)
    assert near.open() is None
    for stream in streams:
        near.finish(stream)
    network.run_for(2.0)
    for stream in streams[:3]:
        far.finish(stream)
    network.run_for(2.0)
    told = len(near.events(EventKind.STREAMS_AVAILABLE))
    assert near.open() is None  # nobody has read them

    for stream in streams[:3]:
        assert far.read(stream) == (b"x", True)
    network.run(lambda: len(near.events(EventKind.STREAMS_AVAILABLE)) > told)
    assert len(open_all(near)) == 3


def test_streams_available_is_said_only_to_those_who_wait(
    network: Network, ends: tuple[End, End]
) -> None:
    near, far = ends
    far.host.listeners.append(
        lambda event: (
            far.host.engine.reset(far.number, event.stream, 1)
            if event.kind is EventKind.STREAM_OPENED
            else None
        )
    )
    for _ in range(STREAMS // 2 + 10):
        stream = near.must_open()
        near.reset(stream, 1)
    network.run_for(2.0)

    assert not near.events(EventKind.STREAMS_AVAILABLE)


class Answering:
    """Reads each stream the peer opens and ends its own side then."""

    def __init__(self, end: End) -> None:
        self._end = end
        self.done = 0
        end.host.listeners.append(self._on_event)

    def _on_event(self, event: Event) -> None:
        if event.kind is EventKind.READABLE:
            engine = self._end.host.engine
            _, finished = engine.read(event.connection, event.stream, 1000)
            if finished:
                engine.finish(event.connection, event.stream)
                self.done += 1


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_many_more_streams_than_may_be_open_at_once(loss: float) -> None:
    network = Network(seed=9, path=Path(loss=loss))
    near, far = network.connect(network.host(agent()), network.host(relay()))
    answering = Answering(far)
    opened = 0

    def open_more() -> bool:
        nonlocal opened
        for stream in open_all(near, at_most=200):
            near.write(stream, b"x")
            near.finish(stream)
            opened += 1
        return opened >= 3 * STREAMS

    def forget(event: Event) -> None:
        if event.kind is EventKind.READABLE:
            near.host.engine.read(event.connection, event.stream, 1000)

    near.host.listeners.append(forget)
    network.run(open_more, within=30.0)
    network.run(lambda: answering.done == opened, within=30.0)

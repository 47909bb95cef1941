"""What only the aioquic engine does: its tables, its timers, and its short cuts around aioquic.

Hostile here is a peer that passed the handshake and then breaks QUIC's own rules.
"""

from __future__ import annotations

import random
from typing import Any, cast

import pytest
from aioquic import tls
from aioquic.buffer import encode_uint_var
from hypothesis import given, settings
from hypothesis import strategies as st

from outrelay.lib.errors import ErrorCode
from outrelay.lib.transport.quic import aioquic_core, aioquic_send
from outrelay.lib.transport.quic.aioquic_core import CoreConnection
from outrelay.lib.transport.quic.aioquic_streams import BURST, GrantedLimit
from outrelay.lib.transport.quic.engine import STREAM_WINDOW, STREAMS, EventKind
from outrelay.lib.transport.quic.engine_aioquic import AioquicEngine
from tests.lib.transport.quic.engines import aioquic_agent as agent
from tests.lib.transport.quic.engines import aioquic_relay as relay
from tests.support.virtual_quic import Datagram, End, Host, Network, Path, Sink, Source

MIB = 1 << 20


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def ends(network: Network) -> tuple[End, End]:
    return network.connect(network.host(agent()), network.host(relay()))


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def engine_of(host: Host) -> AioquicEngine:
    return cast("AioquicEngine", host.engine)


def core_of(end: End) -> CoreConnection:
    return engine_of(end.host)._links[end.number].core


# What is kept


def kept(end: End) -> dict[str, int]:
    """How many things the engine keeps for streams of the connection."""
    core = core_of(end)
    tables: dict[str, Any] = {
        name: getattr(core, name)
        for name in (
            *("streams", "readable", "finished", "blocked"),
            *("_streams", "_send_queue", "_streams_queue", "_streams_blocked_bidi", "_events"),
        )
    }
    return {name: len(table) for name, table in tables.items() if table}


@pytest.mark.parametrize("loss", [0.0, 0.03])
@pytest.mark.parametrize("ending", ["finish", "reset", "stop"])
def test_streams_that_ended_are_forgotten(ending: str, loss: float) -> None:
    network = Network(seed=4, path=Path(loss=loss))
    near, far = network.connect(network.host(agent()), network.host(relay()))

    def answer(event: Any) -> None:
        engine = far.host.engine
        if event.kind is EventKind.STREAM_OPENED and ending != "finish":
            engine.stop_sending(event.connection, event.stream, 1)
            engine.reset(event.connection, event.stream, 1)
        elif event.kind is EventKind.READABLE and engine.read(far.number, event.stream, 9)[1]:
            engine.finish(event.connection, event.stream)

    def take(event: Any) -> None:
        if event.kind is EventKind.READABLE:
            near.host.engine.read(near.number, event.stream, 9)

    far.host.listeners.append(answer)
    near.host.listeners.append(take)
    for _ in range(12):
        streams = [near.must_open() for _ in range(100)]
        for stream in streams:
            near.write(stream, b"x")
            if ending == "reset":
                near.reset(stream, 1)
            elif ending == "stop":
                near.stop(stream, 1)
            else:
                near.finish(stream)
        network.run(lambda: not (core_of(near).streams or core_of(far).streams))
    network.run_for(1.0)

    assert len(far.events(EventKind.STREAM_OPENED)) == 1_200
    assert kept(near) == kept(far) == {}


def test_connections_that_ended_are_forgotten(network: Network) -> None:
    server = network.host(relay())
    for _ in range(20):
        near, _ = network.connect(network.host(agent()), server)
        Source(near, near.must_open(), payload(10_000))
        near.close()
        network.remove(near.host)
    network.run_for(15.0)
    engine = engine_of(server)

    assert (engine._links, engine._routes, engine._touched) == ({}, {}, {})
    assert engine._gate.under_way == 0
    assert engine.next_deadline() is None
    assert engine._deadlines == []


def test_connection_ids_are_a_few_each(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    for _ in range(30):
        network.move(near.host)
        near.ping()
        network.run_for(0.5)

    assert len(engine_of(near.host)._routes) <= 10
    assert len(engine_of(far.host)._routes) <= 10


def test_the_address_of_a_connection_that_is_gone_is_not_known(ends: tuple[End, End]) -> None:
    near, _ = ends
    with pytest.raises(KeyError):
        near.host.engine.address(near.number + 1)


def test_timers_of_long_conversations_do_not_pile_up(network: Network) -> None:
    client, server = network.host(agent()), network.host(relay())
    one, other = (network.connect(client, server)[0] for _ in range(2))
    for _ in range(300):  # always one of them waits for an answer
        one.ping()
        network.run_for(0.015)
        other.ping()
        network.run_for(0.015)

    assert len(engine_of(client)._deadlines) <= 100
    assert len(engine_of(server)._deadlines) <= 100


def test_nothing_asks_to_be_called_again_at_rest(network: Network, ends: tuple[End, End]) -> None:
    """A timer that fires for nothing is a busy loop."""
    network.run_for(5.0)
    for end in ends:
        deadline = end.host.engine.next_deadline()
        assert deadline is not None
        assert deadline > network.now + 1.0


# Bursts


def test_a_call_builds_at_most_a_burst_for_each_connection() -> None:
    network = Network(path=Path(delay=0.1))
    near, far = network.connect(network.host(agent()), network.host(relay()))
    network.run_for(1.0)
    assert network.transfer(near, far, bytes(8 * MIB)) == bytes(8 * MIB)

    assert BURST // 2 < near.host.largest_burst <= BURST
    assert far.host.largest_burst <= BURST


def test_connections_take_turns(network: Network) -> None:
    """No connection has to wait until another has nothing more to send."""
    server = network.host(relay())
    clients = [network.host(agent()) for _ in range(3)]
    ends = [network.connect(client, server) for client in clients]
    sources = []
    for near, far in ends:
        stream = far.must_open()
        sources.append(Source(far, stream, bytes(4 * MIB)))
        Sink(near, stream)
    network.run(lambda: any(source.written == 4 * MIB for source in sources))

    assert min(source.written for source in sources) > 3 * MIB


def test_streams_take_turns(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    streams = [near.must_open() for _ in range(10)]
    sinks = [Sink(far, stream) for stream in streams]
    for stream in streams:
        Source(near, stream, bytes(MIB))
    network.run(lambda: any(len(sink.data) > MIB // 2 for sink in sinks))

    assert min(len(sink.data) for sink in sinks) > MIB // 3


def test_a_window_grows_no_further_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aioquic_send, "STREAM_WINDOW_MAX", 4 * STREAM_WINDOW)
    network = Network(path=Path(delay=0.2))
    near, far = network.connect(network.host(agent()), network.host(relay()))
    stream = near.must_open()
    source = Source(near, stream, bytes(64 * MIB))
    sink = Sink(far, stream)
    network.run(lambda: source.written > 9 * MIB, within=60)
    sink.reading = False
    network.run_for(8.0)

    window = source.written - near.unsent(stream) - len(sink.data)
    assert 2 * STREAM_WINDOW < window <= 4 * STREAM_WINDOW


def test_a_connection_sends_no_more_than_its_peer_lets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aioquic_core, "CONNECTION_WINDOW", MIB // 4)
    monkeypatch.setattr(aioquic_core, "Limit", GrantedLimit)  # one that does not raise itself
    network = Network()
    near, far = network.connect(network.host(agent()), network.host(relay()))
    sources = [Source(near, near.must_open(), bytes(MIB)) for _ in range(3)]

    def sent() -> int:
        return sum(source.written - near.unsent(source.stream) for source in sources)

    network.run_for(5.0)
    assert sent() == MIB // 4
    credit = cast("GrantedLimit", core_of(far)._local_max_data)
    for _ in range(MIB // 4):
        credit.grant()
    far.ping()
    network.run_for(5.0)

    assert sent() == MIB // 2
    assert not near.events(EventKind.LOST)


# Keys


@pytest.mark.parametrize("path", [Path(), Path(loss=0.03, reorder=0.1)], ids=["good", "rough"])
@pytest.mark.parametrize("who", [[0], [1], [0, 1]], ids=["near", "far", "both"])
def test_keys_change_in_the_middle_of_a_transfer(path: Path, who: list[int]) -> None:
    network = Network(seed=2, path=path)
    ends = network.connect(network.host(agent()), network.host(relay()))
    data = payload(MIB // 2)
    sinks = []
    for source, target in (ends, ends[::-1]):
        stream = source.must_open()
        sinks.append(Sink(target, stream))
        Source(source, stream, data)
    phases = set()
    for part in range(1, 8):
        network.run(
            lambda part=part: min(len(sink.data) for sink in sinks) > part * len(data) // 8,  # type: ignore[misc]
            within=60,
        )
        for index in who:
            core_of(ends[index]).request_key_update()
        network.run_for(0.1)
        phases.add(core_of(ends[0])._cryptos[tls.Epoch.ONE_RTT].key_phase)
    network.run(lambda: all(sink.finished for sink in sinks), within=60)

    assert [bytes(sink.data) for sink in sinks] == [data] * 2
    assert phases == {0, 1} or who == [0, 1]


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_the_dialling_side_changes_keys_before_they_are_worn_out(
    network: Network, ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch, up: bool
) -> None:
    monkeypatch.setattr(aioquic_core, "KEY_LIFE", 1_200)
    source, target = ends if up else ends[::-1]
    stream = source.must_open()
    sink = Sink(target, stream)
    Source(source, stream, payload(4 * MIB))
    secrets = set()
    for part in range(16):
        network.run(lambda part=part: len(sink.data) > part * MIB // 4)  # type: ignore[misc]
        secrets.add(core_of(ends[1])._cryptos[tls.Epoch.ONE_RTT].recv.secret)
    network.run(lambda: sink.finished)

    assert sink.data == payload(4 * MIB)
    assert len(secrets) >= 1 + 4 * MIB // 1_452 // 1_200  # the first and two others


def test_who_changes_keys_need_not_send_again(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    stream = near.must_open()
    sink = Sink(far, stream)
    Source(near, stream, payload(2 * MIB))
    for part in range(1, 8):
        network.run(lambda part=part: len(sink.data) > part * MIB // 4)  # type: ignore[misc]
        core_of(near).request_key_update()
    network.run(lambda: sink.finished)

    assert sum(near.host.sent_sizes) < 1.05 * 2 * MIB


# Faults inside aioquic


class Fault(Exception):
    """What a bug in aioquic would raise."""


@pytest.mark.parametrize("method", ["receive_datagram", "datagrams_to_send", "handle_timer"])
def test_a_fault_in_aioquic_ends_one_connection_and_tells_its_peer(
    network: Network,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    server = network.host(relay())
    near, far = network.connect(network.host(agent()), server)
    others = network.connect(network.host(agent()), server)
    core = core_of(far)

    def fail(*_: Any) -> Any:
        monkeypatch.undo()
        raise Fault

    monkeypatch.setattr(core, method, fail)
    stream = far.must_open()
    far.write(stream, b"data")
    near.ping()
    network.run(lambda: bool(near.events(EventKind.LOST)), within=0.05)

    assert far.event(EventKind.LOST).code == ErrorCode.PROTOCOL
    assert near.event(EventKind.LOST).by_peer
    assert "Fault" in caplog.text
    assert network.transfer(*others, b"goes on") == b"goes on"
    network.run(lambda: bool(near.events(EventKind.DRAINED) and far.events(EventKind.DRAINED)))


# Peers that break the rules


def send_frames(end: End, frames: bytes) -> None:
    """Send a packet of the connection with these frames in it."""
    core = core_of(end)
    number = core._packet_number
    core._packet_number += 1
    header = b"\x43" + core._peer_cid.cid + number.to_bytes(4, "big")
    packet = core._cryptos[tls.Epoch.ONE_RTT].encrypt_packet(header, frames, number)
    target = end.host.engine.address(end.number)
    end.host.network.send(Datagram(end.host.address, target, packet))


def frame(kind: int, *values: int, data: bytes = b"") -> bytes:
    return b"".join(map(encode_uint_var, (kind, *values))) + data


ABUSES = {
    "unknown frame": frame(0x40),
    "no frame": b"",
    "a frame cut short": frame(0x08),
    "stream of ours": frame(0x0A, 1, 1, data=b"x"),
    "unidirectional stream": frame(0x0A, 2, 1, data=b"x"),
    "too many streams": frame(0x0A, 4 * STREAMS, 1, data=b"x"),
    "beyond the window": frame(0x0E, 0, STREAM_WINDOW, 1, data=b"x"),
    "beyond all offsets": frame(0x0E, 0, (1 << 62) - 1, 1, data=b"x"),
    "data after the end": frame(0x0B, 0, 1, data=b"x") + frame(0x0E, 0, 5, 1, data=b"x"),
    "two ends": frame(0x0B, 0, 1, data=b"x") + frame(0x0B, 0, 0),
    "reset before what came": frame(0x0E, 0, 5, 1, data=b"x") + frame(0x04, 0, 1, 2),
    "reset beyond the window": frame(0x04, 0, 1, STREAM_WINDOW + 1),
    "credit for a stream that is not": frame(0x11, 1, 10),
    "handshake done from a client": frame(0x1E),
    "a token from a client": frame(0x07, 1, data=b"x"),
    "retires an id that is not": frame(0x19, 100),
    "an empty connection id": frame(0x18, 1, 0) + bytes(17),
    "a datagram frame": frame(0x31, 1, data=b"x"),
    "more streams than can be": frame(0x12, (1 << 60) + 1),
}


@pytest.mark.parametrize("fast", [False, True], ids=["first packet", "after data"])
@pytest.mark.parametrize("abuse", ABUSES)
def test_a_peer_that_breaks_the_rules_loses_its_connection(
    network: Network,
    ends: tuple[End, End],
    caplog: pytest.LogCaptureFixture,
    abuse: str,
    fast: bool,
) -> None:
    near, far = ends
    others = network.connect(network.host(agent()), far.host)
    if fast:  # a stream that the engine knows takes the short cut
        network.transfer(near, far, payload(3_000))
        near.write(near.must_open(), b"")
        network.run_for(0.5)
    send_frames(near, ABUSES[abuse])
    network.run(lambda: bool(far.events(EventKind.LOST)), within=1.0)

    assert far.event(EventKind.LOST).code == ErrorCode.PROTOCOL
    assert not far.event(EventKind.LOST).by_peer
    assert "fault in the QUIC engine" not in caplog.text
    network.run(lambda: bool(near.events(EventKind.LOST)), within=1.0)
    assert near.event(EventKind.LOST).by_peer
    assert network.transfer(*others, b"goes on") == b"goes on"


def test_endless_connection_ids_end_the_connection(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    network.passes = lambda datagram: datagram.target == far.host.address
    for number in range(8, 60):
        send_frames(near, frame(0x18, number, number) + b"\x08" + number.to_bytes(24, "big"))
    network.run(lambda: bool(far.events(EventKind.LOST)), within=1.0)

    assert far.event(EventKind.LOST).code == ErrorCode.PROTOCOL


def test_a_packet_under_no_key_of_ours_changes_nothing(
    network: Network, ends: tuple[End, End]
) -> None:
    near, far = ends
    cid = core_of(near)._peer_cid.cid
    for length in (0, 5, 20, 1000):
        for first in (0x40, 0x44, 0x58, 0x7F):
            data = bytes([first]) + cid + payload(length)
            network.send(Datagram(near.host.address, far.host.address, data))
    network.run_for(1.0)

    assert not far.events(EventKind.LOST)
    assert network.transfer(near, far, b"goes on") == b"goes on"


@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=30),
            st.tuples(st.integers(0, 0x31), st.lists(st.integers(0, 40), max_size=4)).map(
                lambda drawn: frame(drawn[0], *drawn[1])
            ),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_no_frames_make_an_engine_raise(frames: list[bytes]) -> None:
    network = Network()
    near, far = network.connect(network.host(agent()), network.host(relay()))
    near.write(near.must_open(), b"a stream to play with")
    network.run_for(0.1)
    for each in frames:
        if far.number in engine_of(far.host)._links:
            send_frames(near, each)
        network.run_for(0.02)
    assert not any("Traceback" in str(event.reason) for event in far.host.log)

"""What every packet engine promises of connections and streams; see the port, ``engine``.

Two engines talk over a virtual network, which checks the order of all events on its way.
What concerns credit is in ``test_engine_flow``, the path in ``test_engine_path``, the end of
connections in ``test_engine_ends``.
"""

from __future__ import annotations

import random

import pytest
from cryptography import x509

from outrelay.lib.errors import ErrorCode
from outrelay.lib.identity.certs import Credentials
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.quic.engine import Event, EventKind
from tests.lib.transport.quic.engines import AGENT, PKI, RELAY, agent, relay
from tests.support.virtual_quic import Datagram, End, Network, Path, Sink, Source

pytestmark = pytest.mark.usefixtures("each_engine")

ROUGH = Path(loss=0.05, reorder=0.1, held=0.03, duplicate=0.05)


def payload(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def connected(network: Network) -> tuple[End, End]:
    return network.connect(network.host(agent()), network.host(relay()))


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def ends(network: Network) -> tuple[End, End]:
    return connected(network)


# Handshakes


def test_both_ends_learn_who_the_other_is(ends: tuple[End, End]) -> None:
    near, far = ends
    relay_peer = near.event(EventKind.CONNECTED).peer
    agent_peer = far.event(EventKind.CONNECTED).peer

    assert relay_peer is not None
    assert agent_peer is not None
    assert (relay_peer.identity, relay_peer.expires) == (RELAY.identity, RELAY.expires)
    assert (agent_peer.identity, agent_peer.expires) == (AGENT.identity, AGENT.expires)
    assert near.host.engine.address(near.number) == far.host.address
    assert far.host.engine.address(far.number) == near.host.address


@pytest.mark.parametrize("seed", range(8))
def test_a_handshake_gets_through_a_bad_path(seed: int) -> None:
    network = Network(seed=seed, path=Path(loss=0.25, reorder=0.2, duplicate=0.2))
    network.connect(
        network.host(agent(handshake_timeout=60.0, idle_timeout=60.0)),
        network.host(relay(handshake_timeout=60.0, idle_timeout=60.0)),
        within=60.0,
    )


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_certificates_may_be_larger_than_what_an_unproven_address_gets(loss: float) -> None:
    padding = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), bytes(6_000))

    def large(of: Credentials) -> dict[str, object]:
        large = PKI.forge(of.identity, extensions=[padding])
        return {"credentials": large, "handshake_timeout": 60.0, "idle_timeout": 60.0}

    network = Network(seed=1, path=Path(loss=loss))
    client, server = network.host(agent(**large(AGENT))), network.host(relay(**large(RELAY)))
    network.connect(client, server, within=60.0)


def test_a_host_dials_and_is_dialled(network: Network) -> None:
    one, other = network.host(relay()), network.host(relay(credentials=PKI.relay(name="r2")))
    there, back = network.connect(one, other), network.connect(other, one)

    assert network.transfer(*there, payload(1000)) == payload(1000)
    assert network.transfer(*back, payload(2000)) == payload(2000)


def test_many_connections_share_two_addresses(network: Network) -> None:
    client, server = network.host(agent()), network.host(relay())
    pairs = [network.connect(client, server) for _ in range(4)]
    pairs[0][0].close()
    pairs[1][1].close()
    network.run_for(1.0)

    assert len(client.events(EventKind.LOST)) == len(server.events(EventKind.LOST)) == 2
    for near, far in pairs[2:]:
        assert network.transfer(near, far, payload(50_000)) == payload(50_000)


def test_a_peer_of_another_role_is_refused_by_the_one_who_dials(network: Network) -> None:
    client, server = network.host(agent()), network.host(relay())
    near = client.dial(server, roles={Role.CONTROLLER})
    network.run(lambda: bool(server.events(EventKind.REFUSED)))
    refused = near.event(EventKind.REFUSED)

    assert "role" in refused.reason
    assert (refused.final, refused.by_peer, refused.address) == (True, False, server.address)
    (heard,) = server.events(EventKind.REFUSED)
    assert (heard.final, heard.by_peer, heard.address) == (True, True, client.address)
    network.run(lambda: bool(near.events(EventKind.DRAINED)))


def test_a_peer_of_another_role_is_refused_by_the_one_who_listens(network: Network) -> None:
    client = network.host(agent(credentials=PKI.operator()))
    server = network.host(relay())
    near = client.dial(server)
    network.run(lambda: bool(near.events(EventKind.REFUSED)))

    assert near.event(EventKind.REFUSED).by_peer
    assert near.event(EventKind.REFUSED).final
    (refused,) = server.events(EventKind.REFUSED)
    assert "role" in refused.reason
    assert (refused.by_peer, refused.address) == (False, client.address)
    assert not server.events(EventKind.CONNECTED)


def test_another_protocol_is_refused(network: Network) -> None:
    near = network.host(agent(alpn="orp/2")).dial(network.host(relay()))
    network.run(lambda: bool(near.events(EventKind.REFUSED)))

    assert near.event(EventKind.REFUSED).final


def test_another_server_name_is_refused(network: Network) -> None:
    near = network.host(agent()).dial(network.host(relay()), server_name="elsewhere.example")
    network.run(lambda: bool(near.events(EventKind.REFUSED)))

    assert "elsewhere.example" in near.event(EventKind.REFUSED).reason


def test_any_server_name_will_do_when_none_is_asked_for(network: Network) -> None:
    near = network.host(agent()).dial(network.host(relay()), server_name="")
    network.run(lambda: bool(near.events(EventKind.CONNECTED)))


def test_nobody_answers_a_dial(network: Network) -> None:
    near = network.host(agent(handshake_timeout=4.0)).dial(network.host(agent()))
    began = network.now
    network.run(lambda: bool(near.events(EventKind.REFUSED)))
    refused = near.event(EventKind.REFUSED)

    assert network.now - began == pytest.approx(4.0, abs=0.1)
    assert "no answer" in refused.reason
    assert not refused.final


def test_who_begins_a_handshake_and_goes_silent_is_refused_in_time(network: Network) -> None:
    client, server = network.host(agent()), network.host(relay(handshake_timeout=3.0))
    network.passes = lambda datagram: network.now == began
    began = network.now
    client.dial(server)
    network.run(lambda: bool(server.events(EventKind.REFUSED)), within=3.1)
    (refused,) = server.events(EventKind.REFUSED)

    assert refused.address == client.address
    assert "no answer" in refused.reason
    network.run(lambda: bool(server.events(EventKind.DRAINED)))


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_a_connection_is_announced_before_the_streams_its_acceptor_opens(
    network: Network, lost: int
) -> None:
    client, server = network.host(agent()), network.host(relay())
    opened = []

    def greet(event: Event) -> None:
        if event.kind is EventKind.CONNECTED:
            engine = server.engine
            stream = engine.open_stream(event.connection)
            assert stream is not None
            engine.write(event.connection, stream, memoryview(b"welcome"))
            opened.append(stream)
            network.passes = drop_first

    def drop_first(datagram: Datagram) -> bool:
        """Loses the packets that confirm the handshake."""
        if datagram.source == server.address and len(dropped) < lost:
            dropped.append(datagram)
            return False
        return True

    dropped: list[Datagram] = []
    server.listeners.append(greet)
    near, _ = network.connect(client, server)
    network.run(lambda: bool(near.events(EventKind.READABLE)))

    assert near.read(opened[0]) == (b"welcome", False)


def test_streams_of_a_connection_closed_before_it_was_announced_are_not_heard_of(
    network: Network,
) -> None:
    client, server = network.host(agent()), network.host(relay())

    def greet_and_go(event: Event) -> None:
        if event.kind is EventKind.CONNECTED:
            network.passes = lambda datagram: len(datagram.data) < 1000
            for size in (1000, 100):  # the first packet, with HANDSHAKE_DONE, is lost
                stream = server.engine.open_stream(event.connection)
                assert stream is not None
                server.engine.write(event.connection, stream, memoryview(bytes(size)))
            server.transmit()
            server.engine.close(event.connection, ErrorCode.DRAIN, "at once")

    server.listeners.append(greet_and_go)
    near = client.dial(server)
    network.run(lambda: bool(near.events(EventKind.DRAINED)))

    assert not near.events(EventKind.STREAM_OPENED)


# Streams


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.05, 0.2])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_stream_arrives_byte_for_byte(loss: float, seed: int) -> None:
    network = Network(seed=seed, path=Path(loss=loss, reorder=loss, duplicate=loss))
    near, far = connected(network)
    data = payload(150_000 if loss == 0.2 else 500_000, seed)

    assert network.transfer(near, far, data) == data
    assert network.transfer(far, near, data) == data


def test_both_directions_of_many_streams_at_once() -> None:
    network = Network(seed=3, path=ROUGH)
    near, far = connected(network)
    streams = [near.must_open() for _ in range(20)]
    up = {stream: payload(10_000 + stream, stream) for stream in streams}
    down = {stream: payload(5_000 + stream, stream + 1) for stream in streams}
    at_far = {stream: Sink(far, stream) for stream in streams}
    at_near = {stream: Sink(near, stream) for stream in streams}

    def answer(event: Event) -> None:
        if event.kind is EventKind.STREAM_OPENED:
            Source(far, event.stream, down[event.stream])

    far.host.listeners.append(answer)
    for stream in streams:
        Source(near, stream, up[stream])
    sinks = [*at_far.values(), *at_near.values()]
    network.run(lambda: all(sink.finished for sink in sinks), within=60)

    assert {stream: bytes(sink.data) for stream, sink in at_far.items()} == up
    assert {stream: bytes(sink.data) for stream, sink in at_near.items()} == down


def test_streams_of_both_sides_do_not_meet(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    streams = [near.must_open(), far.must_open(), near.must_open(), far.must_open()]

    assert len(set(streams)) == 4
    assert streams[0] == 0


def test_a_batch_of_datagrams_is_the_same_as_one_after_the_other(network: Network) -> None:
    network.path = Path(delay=0.0)
    near, far = connected(network)
    data = payload(300_000)

    assert network.transfer(near, far, data) == data


@pytest.mark.parametrize("first", ["near", "far"])
def test_a_direction_that_ended_leaves_the_other_open(
    network: Network, ends: tuple[End, End], first: str
) -> None:
    near, far = ends
    stream = near.must_open()
    near.write(stream, b"hello")
    network.run(lambda: bool(far.events(EventKind.READABLE)))
    assert far.read(stream) == (b"hello", False)

    ending, other = (near, far) if first == "near" else (far, near)
    ending.write(stream, b"last words")
    ending.finish(stream)
    network.run_for(1.0)
    assert other.read(stream) == (b"last words", True)
    assert ending.events(EventKind.FINISHED, stream)

    Source(other, stream, payload(100_000))
    sink = Sink(ending, stream)
    network.run(lambda: sink.finished)
    assert sink.data == payload(100_000)


def test_a_stream_may_end_without_a_byte(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    stream = near.must_open()
    near.finish(stream)
    network.run(lambda: bool(far.events(EventKind.READABLE, stream)))

    assert far.read(stream) == (b"", True)
    network.run(lambda: bool(near.events(EventKind.FINISHED, stream)))


def test_a_read_takes_at_most_its_limit(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    stream = near.must_open()
    near.write(stream, b"0123456789")
    near.finish(stream)
    network.run_for(1.0)

    assert far.read(stream, 4) == (b"0123", False)
    assert far.read(stream, 4) == (b"4567", False)
    assert far.read(stream, 4) == (b"89", True)


def test_there_is_nothing_to_read_before_something_came(
    network: Network, ends: tuple[End, End]
) -> None:
    near, _ = ends
    stream = near.must_open()

    assert near.read(stream) == (b"", False)


def test_a_reset_reaches_the_reader_with_its_code(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    stream = near.must_open()
    near.write(stream, payload(100_000))
    network.run(lambda: bool(far.events(EventKind.READABLE)))
    near.reset(stream, ErrorCode.DENIED)
    network.run(lambda: bool(far.events(EventKind.RESET)))
    (reset,) = far.events(EventKind.RESET)
    assert (reset.stream, reset.code) == (stream, ErrorCode.DENIED)

    sink = Sink(near, stream)
    Source(far, stream, b"the other direction is still open")
    network.run(lambda: sink.finished)
    assert sink.data == b"the other direction is still open"


def test_a_reset_of_an_unheard_of_stream_opens_it_first(
    network: Network, ends: tuple[End, End]
) -> None:
    near, far = ends
    stream = near.must_open()
    near.reset(stream, ErrorCode.LIMIT)
    network.run(lambda: bool(far.events(EventKind.RESET)))

    kinds = [event.kind for event in far.host.log if event.stream == stream]
    assert kinds == [EventKind.STREAM_OPENED, EventKind.RESET]


def test_a_reset_after_everything_was_acknowledged_is_not_heard(
    network: Network, ends: tuple[End, End]
) -> None:
    near, far = ends
    stream = near.must_open()
    Source(near, stream, b"complete")
    network.run(lambda: bool(near.events(EventKind.FINISHED)))
    near.reset(stream, ErrorCode.CANCELLED)
    network.run_for(1.0)

    assert not far.events(EventKind.RESET)
    assert far.read(stream) == (b"complete", True)


def test_a_stop_reaches_the_writer_with_its_code(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    stream = near.must_open()
    Source(near, stream, payload(4 << 20))
    network.run(lambda: bool(far.events(EventKind.READABLE)))
    far.stop(stream, ErrorCode.CANCELLED)
    network.run(lambda: bool(near.events(EventKind.STOPPED)))
    (stopped,) = near.events(EventKind.STOPPED)
    assert (stopped.stream, stopped.code) == (stream, ErrorCode.CANCELLED)

    network.run_for(1.0)
    assert not far.events(EventKind.RESET)
    sink = Sink(near, stream)
    Source(far, stream, b"still open")
    network.run(lambda: sink.finished)
    assert sink.data == b"still open"


def test_a_stop_after_everything_has_come_is_not_heard(
    network: Network, ends: tuple[End, End]
) -> None:
    near, far = ends
    stream = near.must_open()
    near.write(stream, b"complete")
    near.finish(stream)
    network.run_for(1.0)
    far.stop(stream, ErrorCode.CANCELLED)
    network.run_for(1.0)

    assert not near.events(EventKind.STOPPED)


def test_a_stop_that_arrives_after_the_end_was_acknowledged_is_no_news(
    network: Network, ends: tuple[End, End]
) -> None:
    """Its writer has been told that the peer has everything."""
    near, far = ends
    stream = near.must_open()
    near.write(stream, b"complete")
    network.run(lambda: bool(far.events(EventKind.READABLE)))
    late = network.watch()
    network.passes = lambda _: False
    far.stop(stream, ErrorCode.CANCELLED)
    network.passes = lambda _: True
    (stop,) = late
    near.finish(stream)
    network.run(lambda: bool(near.events(EventKind.FINISHED)))
    network.send(stop)
    network.run_for(1.0)

    assert not near.events(EventKind.STOPPED)


@pytest.mark.parametrize("seed", range(4))
def test_resets_and_stops_get_through_a_bad_path(seed: int) -> None:
    network = Network(seed=seed, path=Path(loss=0.3, reorder=0.2))
    options = {"handshake_timeout": 60.0, "idle_timeout": 60.0}
    near, far = network.connect(
        network.host(agent(**options)), network.host(relay(**options)), within=60.0
    )
    streams = [near.must_open() for _ in range(10)]
    for stream in streams:
        near.write(stream, payload(2000))
    network.run(lambda: len(far.events(EventKind.STREAM_OPENED)) == 10, within=60.0)
    for stream in streams[:5]:
        near.reset(stream, ErrorCode.CANCELLED)
    for stream in streams[5:]:
        far.stop(stream, ErrorCode.CANCELLED)
    network.run(
        lambda: len(far.events(EventKind.RESET)) == 5 and len(near.events(EventKind.STOPPED)) == 5,
        within=60.0,
    )

"""One engine talks to the other, in both roles: what each does is QUIC, not a dialect."""

from __future__ import annotations

import random

import pytest

from outrelay.lib.errors import ErrorCode
from outrelay.lib.transport.quic.engine import STREAM_WINDOW, STREAMS, EventKind
from tests.lib.transport.quic.engines import AGENT, PKI, RELAY, agent, relay
from tests.support.virtual_quic import End, Network, Path, Sink, Source

pytestmark = pytest.mark.usefixtures("both_engines")

MIB = 1 << 20


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def connected(network: Network, **differences: object) -> tuple[End, End]:
    near, far = agent(**differences), relay(**differences)
    return network.connect(network.host(near), network.host(far), within=60.0)


def test_they_know_each_other() -> None:
    near, far = connected(Network())
    relay_peer, agent_peer = (end.event(EventKind.CONNECTED).peer for end in (near, far))

    assert relay_peer is not None
    assert agent_peer is not None
    assert (relay_peer.identity, agent_peer.identity) == (RELAY.identity, AGENT.identity)


@pytest.mark.parametrize("loss", [0.0, 0.02, 0.1])
def test_streams_arrive_byte_for_byte(loss: float) -> None:
    network = Network(seed=2, path=Path(loss=loss, reorder=loss, duplicate=loss))
    near, far = connected(network, handshake_timeout=60.0, idle_timeout=60.0)

    assert network.transfer(near, far, payload(MIB)) == payload(MIB)
    assert network.transfer(far, near, payload(MIB)) == payload(MIB)


@pytest.mark.parametrize("loss", [0.0, 0.3])
@pytest.mark.parametrize("is_near", [True, False])
def test_all_streams_can_be_opened_before_one_is_used(loss: float, is_near: bool) -> None:
    """Whoever lacks leave for more says so, also when that is lost; or has no need to."""
    network = Network(seed=4, path=Path(loss=loss))
    near, far = connected(network, handshake_timeout=60.0, idle_timeout=60.0)
    opener = near if is_near else far
    opened: list[int] = []

    def open_all() -> bool:
        while len(opened) < STREAMS and (stream := opener.open()) is not None:
            opened.append(stream)
        return len(opened) == STREAMS

    network.run(open_all, within=60.0)
    assert opener.open() is None


def test_an_address_is_proved_when_asked_for() -> None:
    network = Network()
    near, far = connected(network, retry_above=0)

    assert network.transfer(near, far, b"in after all") == b"in after all"


def test_a_peer_of_another_role_hears_why_it_is_refused() -> None:
    network = Network()
    near = network.host(agent(credentials=PKI.operator())).dial(network.host(relay()))
    network.run(lambda: bool(near.events(EventKind.REFUSED)))
    refused = near.event(EventKind.REFUSED)

    assert "expected the role" in refused.reason
    assert (refused.by_peer, refused.final) == (True, True)


def test_another_protocol_is_refused() -> None:
    network = Network()
    near = network.host(agent(alpn="outrelay-fwd/1")).dial(network.host(relay()))
    network.run(lambda: bool(near.events(EventKind.REFUSED)))

    assert near.event(EventKind.REFUSED).final


def test_a_reader_that_stops_stops_its_writer_and_nobody_else() -> None:
    network = Network()
    near, far = connected(network)
    stalled = Source(near, near.must_open(), bytes(64 * MIB))
    network.run_for(5.0)
    assert stalled.written - near.unsent(stalled.stream) == STREAM_WINDOW

    assert network.transfer(near, far, payload(2 * MIB)) == payload(2 * MIB)
    sink = Sink(far, stalled.stream)
    sink.resume()
    network.run(lambda: len(sink.data) > 4 * MIB)


def test_resets_stops_and_closes_say_their_codes() -> None:
    network = Network()
    near, far = connected(network)
    one, other = near.must_open(), near.must_open()
    for stream in (one, other):
        near.write(stream, payload(1000))
    network.run(lambda: len(far.events(EventKind.READABLE)) >= 2)
    near.reset(one, ErrorCode.DENIED)
    far.stop(other, ErrorCode.CANCELLED)
    network.run(lambda: bool(far.events(EventKind.RESET) and near.events(EventKind.STOPPED)))
    assert far.event(EventKind.RESET).code == ErrorCode.DENIED
    assert near.event(EventKind.STOPPED).code == ErrorCode.CANCELLED

    far.close(ErrorCode.DRAIN, "going")
    network.run(lambda: bool(near.events(EventKind.LOST)))
    lost = near.event(EventKind.LOST)
    assert (lost.code, lost.reason, lost.by_peer) == (ErrorCode.DRAIN, "going", True)


def test_streams_are_given_back() -> None:
    network = Network()
    near, far = connected(network)
    streams = network.open(near, STREAMS)
    told = len(near.events(EventKind.STREAMS_AVAILABLE))
    assert near.open() is None
    for stream in streams:
        near.reset(stream, 1)
    network.run(lambda: len(far.events(EventKind.RESET)) == STREAMS)
    for stream in streams:
        far.reset(stream, 1)
        near.stop(stream, 1)
    network.run(lambda: len(near.events(EventKind.STREAMS_AVAILABLE)) > told)
    network.run_for(1.0)

    for _ in range(STREAMS // 2):  # aioquic gives more only when half of what it gave is used
        near.must_open()


def test_a_transfer_survives_a_change_of_the_clients_address() -> None:
    network = Network()
    near, far = connected(network)
    stream = near.must_open()
    sink = Sink(far, stream)
    Source(near, stream, payload(2 * MIB))
    network.run(lambda: len(sink.data) > MIB)
    network.move(near.host)
    near.ping()
    network.run(lambda: sink.finished, within=20.0)

    assert sink.data == payload(2 * MIB)


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_keys_change_in_the_middle_of_a_transfer(loss: float) -> None:
    """The native end begins it, whichever role it has; the other follows."""
    network = Network(seed=3, path=Path(loss=loss, reorder=loss))
    near, far = connected(network, idle_timeout=60.0)
    native = next(each for each in (near, far) if each.host.engine.name == "native")
    stream = near.must_open()
    sink = Sink(far, stream)
    Source(near, stream, payload(2 * MIB))
    for part in range(1, 4):
        network.run(lambda part=part: len(sink.data) > part * MIB // 2)  # type: ignore[misc]
        native.host.engine._connections[native.number].quic.update_keys()  # type: ignore[attr-defined]
    network.run(lambda: sink.finished, within=60.0)

    assert sink.data == payload(2 * MIB)


def test_a_peer_that_restarted_on_the_other_engine_is_noticed_at_once() -> None:
    """The token of an id comes from the key, whichever engine made it."""
    network = Network()
    near, far = connected(network)
    network.replace(far.host, relay())
    near.ping()
    network.run(lambda: bool(near.events(EventKind.LOST)), within=0.1)

    assert "restarted" in near.event(EventKind.LOST).reason

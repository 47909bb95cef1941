"""Datagrams of nobody we know: what begins a connection, what is answered, what leaves no trace."""

from __future__ import annotations

from typing import cast

import pytest
from aioquic._buffer import Buffer
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicProtocolVersion, pull_quic_header
from hypothesis import given, settings
from hypothesis import strategies as st

from outrelay.lib.transport.quic.engine import EventKind, Transmit
from outrelay.lib.transport.quic.engine_aioquic import AioquicEngine
from outrelay.lib.transport.quic.reset import StatelessResets, is_reset
from tests.lib.transport.quic.engines import RELAY
from tests.lib.transport.quic.engines import aioquic_agent as agent
from tests.lib.transport.quic.engines import aioquic_relay as relay
from tests.support.pki import TestPki
from tests.support.virtual_quic import Datagram, Host, Network, Path, Sink

STRANGER = ("198.51.100.7", 40_000)
NOW = 1000.0


@pytest.fixture
def network() -> Network:
    return Network()


def initial(**options: object) -> bytes:
    """The first datagram of a client."""
    engine = agent(**options)
    engine.connect(("192.0.2.1", 7443), roles=frozenset(), server_name="", now=NOW)
    (transmit,) = engine.transmits(NOW)
    (datagram,) = transmit.buffers
    return bytes(datagram)


INITIAL = initial()


def of_version(datagram: bytes, version: int) -> bytes:
    return datagram[:1] + version.to_bytes(4, "big") + datagram[5:]


def answers(engine: AioquicEngine, datagram: bytes, now: float = NOW) -> list[Transmit]:
    engine.receive(memoryview(datagram), len(datagram), STRANGER, now)
    assert engine.events() == []
    return engine.transmits(now)


def is_untouched(engine: AioquicEngine) -> bool:
    """Whether no connection is kept, nor a timer for one."""
    tables = (engine._links, engine._routes, engine._gate.under_way)
    return not any(tables) and engine.next_deadline() is None


def engine_of(host: Host) -> AioquicEngine:
    return cast("AioquicEngine", host.engine)


# Load


def begin_handshakes(network: Network, server: Host, number: int) -> None:
    """Have clients dial that vanish before they are answered."""
    clients = [network.host(agent()) for _ in range(number)]
    for client in clients:
        client.dial(server)
    network.run_for(0.015)
    for client in clients:
        network.remove(client)


def test_below_the_limit_nobody_need_prove_an_address(network: Network) -> None:
    server = network.host(relay(retry_above=1))
    began = network.now
    network.connect(network.host(agent()), server)

    assert network.now - began == pytest.approx(0.04, abs=0.002)  # two round trips


def test_above_the_limit_diallers_must_prove_their_address_first(network: Network) -> None:
    server = network.host(relay(retry_above=3))
    begin_handshakes(network, server, 3)
    began = network.now
    near, far = network.connect(network.host(agent()), server)

    assert network.now - began == pytest.approx(0.06, abs=0.002)  # one more
    assert network.transfer(near, far, b"proven") == b"proven"


def test_who_cannot_hear_us_leaves_no_trace_above_the_limit() -> None:
    engine = relay(retry_above=0)

    for _ in range(50):
        (answer,) = answers(engine, initial())
        assert answer.address == STRANGER
        assert len(answer.buffers[0]) < 200
    assert is_untouched(engine)


def test_who_begins_a_handshake_and_cannot_hear_us_gets_little(network: Network) -> None:
    """Else a relay would flood whoever a client says it is (RFC 9000 section 8.1)."""
    server = network.host(relay())
    client = network.host(agent())
    client.dial(server)
    network.remove(client)
    network.run(lambda: bool(server.events(EventKind.DRAINED)), within=30.0)

    assert 0 < sum(server.sent_sizes) <= 3 * 1200


@pytest.mark.parametrize("seed", range(4))
def test_a_proof_gets_through_a_bad_path(seed: int) -> None:
    network = Network(seed=seed, path=Path(loss=0.25, reorder=0.2, duplicate=0.2))
    patience = {"handshake_timeout": 60.0, "idle_timeout": 60.0}
    server = network.host(relay(retry_above=0, **patience))
    network.connect(network.host(agent(**patience)), server, within=60.0)


def test_a_proof_is_good_for_its_address_and_its_time_only(network: Network) -> None:
    server = network.host(relay(retry_above=0))
    client = network.host(agent())
    seen = network.watch()
    network.connect(client, server)
    proof = next(
        datagram.data
        for datagram in seen
        if pull_quic_header(Buffer(data=datagram.data), host_cid_length=8).token
        and datagram.source == client.address
    )

    def is_accepted(address: tuple[str, int], now: float) -> bool:
        engine = engine_of(server)
        before = len(engine._links)
        engine._routes.clear()  # as if the connection it began were long gone
        engine.receive(memoryview(proof), len(proof), address, now)
        return len(engine._links) > before

    assert is_accepted(client.address, network.now)
    assert not is_accepted(STRANGER, network.now)
    assert not is_accepted((client.address[0], client.address[1] + 1), network.now)
    assert not is_accepted(client.address, network.now + 60.0)


def test_a_proof_of_another_process_is_none(network: Network) -> None:
    server = network.host(relay(retry_above=0))
    near = network.host(agent()).dial(server)
    network.run_for(0.025)  # the client has its token
    network.replace(server, relay(retry_above=0))
    network.run(lambda: bool(near.events(EventKind.REFUSED)), within=11.0)

    assert "no answer" in near.event(EventKind.REFUSED).reason


def test_above_the_upper_limit_nobody_is_heard(network: Network) -> None:
    server = network.host(relay(handshakes_max=2))
    begin_handshakes(network, server, 2)
    third = network.host(agent(handshake_timeout=60.0, idle_timeout=60.0))
    sent = network.watch()
    near = third.dial(server)
    network.run_for(5.0)

    assert third.address in {datagram.source for datagram in sent}
    assert third.address not in {datagram.target for datagram in sent}
    # It goes on asking, and gets its turn when the others have had their time.
    network.run(lambda: bool(near.events(EventKind.CONNECTED)), within=30.0)


def test_handshakes_that_came_to_an_end_count_no_more(network: Network) -> None:
    server = network.host(relay(handshakes_max=1, handshake_timeout=2.0))
    for _ in range(3):
        network.connect(network.host(agent()), server)  # done
        begin_handshakes(network, server, 1)
        network.run_for(2.1)  # given up
    near = network.host(agent(credentials=TestPki().agent())).dial(server)
    network.run(lambda: bool(near.events(EventKind.REFUSED)))  # refused

    network.connect(network.host(agent()), server)
    assert len(server.events(EventKind.REFUSED)) == 4


# Noise


@pytest.mark.parametrize("version", [0x6B3343CF, 0xFF00001D, 0x1A2A3A4A, 2])
def test_another_version_is_answered_with_ours(version: int) -> None:
    engine = relay()
    datagram = of_version(initial(), version)
    (answer,) = answers(engine, datagram)
    offer = pull_quic_header(Buffer(data=answer.buffers[0]), host_cid_length=8)
    asked = pull_quic_header(Buffer(data=of_version(datagram, 1)), host_cid_length=8)

    assert answer.address == STRANGER
    assert offer.supported_versions == [QuicProtocolVersion.VERSION_1]
    assert (offer.destination_cid, offer.source_cid) == (asked.source_cid, asked.destination_cid)
    assert is_untouched(engine)


def test_a_peer_of_another_version_only_is_refused(network: Network) -> None:
    seen = network.watch()
    near = network.host(agent()).dial(network.host(agent()))
    header = pull_quic_header(Buffer(data=seen[0].data), host_cid_length=8)
    offer = bytes([0x80, 0, 0, 0, 0, 8]) + header.source_cid
    offer += bytes([8]) + header.destination_cid + (0x1A2A3A4A).to_bytes(4, "big")
    network.send(Datagram(seen[0].target, seen[0].source, offer))
    network.run(lambda: bool(near.events(EventKind.DRAINED)))

    assert "version" in near.event(EventKind.REFUSED).reason


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\x00",
        b"\x40" + bytes(20),
        initial()[:1199],
        of_version(initial()[:1199], 2),
        of_version(initial(), 0),
        b"\xe0" + initial()[1:],
        initial()[:5] + b"\x07" + initial()[7:] + b"\x00",
        b"GET / HTTP/1.1\r\n",
    ],
    ids=[
        "empty",
        "a byte",
        "too short for an answer",
        "short Initial",
        "short, of another version",
        "version 0",
        "Handshake",
        "short destination id",
        "HTTP",
    ],
)
def test_what_begins_nothing_is_not_answered(datagram: bytes) -> None:
    engine = relay()

    assert answers(engine, datagram) == []
    assert is_untouched(engine)


@pytest.mark.parametrize("at", [25, 40, 200])
def test_a_damaged_initial_begins_nothing(at: int) -> None:
    engine = relay()
    whole = initial()
    damaged = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]

    assert answers(engine, damaged) == []
    assert is_untouched(engine)


def test_a_flood_of_initials_leaves_bounded_state() -> None:
    engine = relay(retry_above=4, handshakes_max=8)
    for _ in range(200):
        engine.receive(memoryview(initial()), 1200, STRANGER, NOW)

    assert len(engine._links) == 4
    assert len(engine._routes) == 2 * 4


def test_damaged_initials_leave_nothing_behind() -> None:
    engine = relay()
    for number in range(500):
        forged = INITIAL[:6] + number.to_bytes(8, "big") + INITIAL[14:]
        address = (f"198.51.100.{number % 250}", 1000 + number)
        engine.receive(memoryview(forged), len(forged), address, NOW)

    assert engine.transmits(NOW) == []
    assert is_untouched(engine)


def test_a_packet_of_a_connection_we_have_forgotten_is_answered_with_a_reset() -> None:
    engine = relay()
    packet = b"\x40" + bytes(range(50))
    (answer,) = answers(engine, packet)

    assert is_reset(answer.buffers[0], [StatelessResets(RELAY).token(packet[1:9])])
    assert is_untouched(engine)


def test_a_dialler_hears_no_strangers() -> None:
    engine = agent()
    for datagram in (initial(), of_version(initial(), 2), b"\x40" + bytes(50)):
        assert answers(engine, datagram) == []

    assert is_untouched(engine)


@given(st.binary(max_size=80), st.booleans())
def test_no_bytes_make_an_engine_raise(data: bytes, padded: bool) -> None:
    engine = relay()
    datagram = data.ljust(1200, b"\0") if padded else data
    engine.receive(memoryview(datagram), len(datagram), STRANGER, NOW)
    engine.transmits(NOW)

    assert engine.events() == []


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 1199), st.integers(1, 255)), min_size=1, max_size=4))
def test_no_damage_to_an_initial_makes_an_engine_raise(damage: list[tuple[int, int]]) -> None:
    engine = relay()
    datagram = bytearray(INITIAL)
    for at, mask in damage:
        datagram[at] ^= mask
    engine.receive(memoryview(bytes(datagram)), len(datagram), STRANGER, NOW)
    engine.transmits(NOW)
    engine.events()


def sealed_initial(frames: bytes, number: int = 0) -> bytes:
    """A client's Initial of any content, under the keys that everybody can derive."""
    destination, source = bytes(range(8)), b"attacker"
    crypto = CryptoPair()
    crypto.setup_initial(destination, is_client=True, version=1)
    length = 4 + len(frames) + 16
    header = b"\xc3\0\0\0\x01\x08" + destination + b"\x08" + source + b"\0"
    header += (0x4000 | length).to_bytes(2, "big") + number.to_bytes(4, "big")
    return crypto.encrypt_packet(header, frames, number).ljust(1200, b"\0")


HELLO_FOR_NOBODY = b"\x06\0\x40\x50\x01\0\0\x4c\x03\x03" + bytes(0x46)


@pytest.mark.parametrize(
    "frames",
    [
        bytes(40),
        b"\x01" * 40,
        b"\x06\0\x10" + bytes(16),
        HELLO_FOR_NOBODY,
        b"\x06\0\x10\x01\0\x10\0" + bytes(40),
        b"\x06\xbf\xff\xff\xff\x01\0" + bytes(30),
        b"\x1c\0\0\0" + bytes(30),
        b"\x08\0\x01" + bytes(30),
        b"",
    ],
    ids=[
        "padding",
        "pings",
        "no hello",
        "an empty hello",
        "half a hello",
        "a far offset",
        "a close",
        "a stream",
        "no frame",
    ],
)
def test_a_handshake_of_nonsense_is_over_in_time(
    network: Network, caplog: pytest.LogCaptureFixture, frames: bytes
) -> None:
    server = network.host(relay())
    network.send(Datagram(STRANGER, server.address, sealed_initial(frames)))
    network.run_for(20.0)

    assert sum(server.sent_sizes) <= 3 * 1200
    assert is_untouched(engine_of(server))
    assert "fault in the QUIC engine" not in caplog.text


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=3))
def test_no_frames_in_an_initial_make_an_engine_raise(packets: list[bytes]) -> None:
    network = Network()
    server = network.host(relay())
    for number, frames in enumerate(packets):
        network.send(Datagram(STRANGER, server.address, sealed_initial(frames, number)))
        network.run_for(0.02)
    network.run_for(20.0)

    assert is_untouched(engine_of(server))


def test_damage_on_the_way_ends_no_connection(network: Network) -> None:
    near, far = network.connect(network.host(agent()), network.host(relay()))
    sink = Sink(far, 0)
    stream = near.must_open()

    def damaged(datagram: Datagram) -> bool:
        middle = len(datagram.data) // 2
        broken = datagram.data[:middle] + b"\xff\x00" + datagram.data[middle + 2 :]
        network.passes = lambda _: True
        network.send(datagram._replace(data=broken))
        network.passes = damaged
        return len(broken) < 100

    network.passes = damaged
    near.write(stream, bytes(5_000))
    near.finish(stream)
    network.run_for(1.0)
    network.passes = lambda _: True
    network.run(lambda: sink.finished)

    assert sink.data == bytes(5_000)

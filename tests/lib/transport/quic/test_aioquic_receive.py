"""What a peer leaves gaps in: delivered once they are filled, refused when it is a game."""

from __future__ import annotations

import random
from typing import cast

import pytest
from aioquic import tls
from aioquic.buffer import encode_uint_var
from aioquic.quic.packet import QuicErrorCode

from outrelay.lib.errors import ErrorCode
from outrelay.lib.transport.quic import aioquic_receive
from outrelay.lib.transport.quic.aioquic_receive import (
    CRYPTO_AHEAD_MAX,
    CRYPTO_GAPS_MAX,
    GAPS_MAX,
)
from outrelay.lib.transport.quic.engine import EventKind
from outrelay.lib.transport.quic.engine_aioquic import AioquicEngine
from tests.lib.transport.quic.engines import aioquic_agent as agent
from tests.lib.transport.quic.engines import aioquic_relay as relay
from tests.support.hostile_quic import Hello, initial
from tests.support.virtual_quic import Datagram, End, Host, Network, Sink

STRANGER = ("198.51.100.7", 40_000)


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def ends(network: Network) -> tuple[End, End]:
    return network.connect(network.host(agent()), network.host(relay()))


def engine_of(host: Host) -> AioquicEngine:
    return cast("AioquicEngine", host.engine)


def byte_at(stream: int, offset: int, data: bytes = b"x") -> bytes:
    """A STREAM frame."""
    places = encode_uint_var(stream) + encode_uint_var(offset) + encode_uint_var(len(data))
    return b"\x0e" + places + data


def send(network: Network, end: End, frames: list[bytes]) -> None:
    """Send packets of the connection with these frames in them, as many as it takes."""
    core = engine_of(end.host)._links[end.number].core
    for first in range(0, len(frames), 100):
        number = core._packet_number
        core._packet_number += 1
        header = b"\x43" + core._peer_cid.cid + number.to_bytes(4, "big")
        packet = core._cryptos[tls.Epoch.ONE_RTT].encrypt_packet(
            header, b"".join(frames[first : first + 100]), number
        )
        target = end.host.engine.address(end.number)
        network.send(Datagram(end.host.address, target, packet))
    network.run_for(0.05)


# Streams


@pytest.mark.parametrize("order", ["backwards", "odd ones first", "any"])
def test_what_comes_in_another_order_is_delivered_in_its_own(
    network: Network, ends: tuple[End, End], order: str
) -> None:
    near, far = ends
    data = random.Random(1).randbytes(2_000)
    frames = [byte_at(0, place, data[place : place + 1]) for place in range(len(data))]
    match order:
        case "backwards":
            frames.reverse()
        case "odd ones first":
            frames = frames[1::2] + frames[::2]
        case _:
            random.Random(2).shuffle(frames)
    sink = Sink(far, 0)
    send(network, near, frames)

    assert sink.data == data


def test_a_peer_that_leaves_too_many_gaps_loses_its_connection(network: Network) -> None:
    server = network.host(relay())
    near, far = network.connect(network.host(agent()), server)
    others = network.connect(network.host(agent()), server)
    send(network, near, [byte_at(0, 2 * place + 1) for place in range(GAPS_MAX)])
    assert not far.events(EventKind.LOST)

    send(network, near, [byte_at(0, 2 * place + 1) for place in range(GAPS_MAX, GAPS_MAX + 9)])
    assert far.event(EventKind.LOST).code == ErrorCode.PROTOCOL
    assert network.transfer(*others, b"goes on") == b"goes on"


def test_gaps_of_one_stream_are_not_another_streams(
    network: Network, ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aioquic_receive, "GAPS_MAX", 10)
    near, far = ends
    for stream in range(0, 40, 4):
        send(network, near, [byte_at(stream, 2 * place + 1) for place in range(10)])

    assert not far.events(EventKind.LOST)


# Handshakes


def hear(
    network: Network, server: Host, *parts: tuple[int, bytes], source: bytes = b"attacker"
) -> int:
    """Send pieces of one client's handshake, (offset, bytes); how many bytes the relay keeps."""
    for number, (offset, crypto) in enumerate(parts):
        packet = initial(crypto, destination=bytes(8), number=number, offset=offset, source=source)
        network.send(Datagram(STRANGER, server.address, packet))
    network.run_for(0.05)
    links = engine_of(server)._links.values()
    return sum(len(link.core._crypto_streams[tls.Epoch.INITIAL].receiver._buffer) for link in links)


def codes(server: Host) -> list[int]:
    """The codes of handshakes that were ended."""
    closings = (link.core.closing for link in engine_of(server)._links.values())
    return [closing.error_code for closing in closings if closing is not None]


def test_a_handshake_in_pieces_out_of_order_is_taken(network: Network) -> None:
    server = network.host(relay())
    hello = Hello()
    pieces = [(at, hello.crypto[at : at + 10]) for at in range(0, len(hello.crypto), 10)]
    hear(network, server, *pieces[::-1], source=hello.source)

    (link,) = engine_of(server)._links.values()
    assert link.core._cryptos[tls.Epoch.HANDSHAKE].send.is_valid()  # it has answered


def test_a_handshake_that_begins_far_ahead_is_refused(network: Network) -> None:
    server = network.host(relay())
    assert hear(network, server, (CRYPTO_AHEAD_MAX, b"x")) == 0
    assert codes(server) == [QuicErrorCode.CRYPTO_BUFFER_EXCEEDED]

    fine = network.host(relay())
    assert hear(network, fine, (CRYPTO_AHEAD_MAX - 1, b"x")) == CRYPTO_AHEAD_MAX
    assert codes(fine) == []


def test_a_handshake_of_gaps_is_refused(network: Network) -> None:
    server = network.host(relay())
    hear(network, server, *((2 * place + 1, b"x") for place in range(CRYPTO_GAPS_MAX)))
    assert codes(server) == []

    server = network.host(relay())
    hear(network, server, *((2 * place + 1, b"x") for place in range(CRYPTO_GAPS_MAX + 2)))
    assert codes(server) == [QuicErrorCode.PROTOCOL_VIOLATION]

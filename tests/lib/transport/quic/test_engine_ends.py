"""How connections end, and how both sides and the engine's timers hear of it.

Source: RFC 9000 section 10; protocol.md section 1.
"""

from __future__ import annotations

import random

import pytest

from outrelay.lib.errors import ErrorCode
from outrelay.lib.transport.quic.engine import EventKind
from tests.lib.transport.quic.engines import PKI, agent, relay
from tests.support.virtual_quic import End, Network, Source

pytestmark = pytest.mark.usefixtures("each_engine")


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def ends(network: Network) -> tuple[End, End]:
    return network.connect(network.host(agent()), network.host(relay()))


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("closer", ["near", "far"])
def test_a_close_says_its_code_and_reason(
    network: Network, ends: tuple[End, End], closer: str
) -> None:
    closing, other = ends if closer == "near" else reversed(ends)
    closing.close(ErrorCode.REPLACED, "somebody else has come")
    here = closing.event(EventKind.LOST)
    network.run(lambda: bool(other.events(EventKind.LOST)))
    there = other.event(EventKind.LOST)

    said = (ErrorCode.REPLACED, "somebody else has come", False)
    assert (here.code, here.reason, here.timed_out, here.by_peer) == (*said, False)
    assert (there.code, there.reason, there.timed_out, there.by_peer) == (*said, True)
    network.run(lambda: bool(closing.events(EventKind.DRAINED) and other.events(EventKind.DRAINED)))


def test_a_close_with_streams_open_ends_them_with_the_connection(
    network: Network, ends: tuple[End, End]
) -> None:
    near, far = ends
    stream = near.must_open()
    Source(near, stream, payload(4 << 20))
    network.run(lambda: bool(far.events(EventKind.READABLE)))
    near.close(ErrorCode.DRAIN, "going")
    network.run(lambda: bool(far.events(EventKind.DRAINED) and near.events(EventKind.DRAINED)))

    assert far.event(EventKind.LOST).code == ErrorCode.DRAIN


@pytest.mark.parametrize("reason", ["x" * 5_000, "\u2026" * 2_000], ids=["ASCII", "three bytes"])
def test_a_long_reason_is_cut_but_the_close_is_sent(
    network: Network, ends: tuple[End, End], caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    near, far = ends
    near.close(ErrorCode.DENIED, reason)
    network.run(lambda: bool(far.events(EventKind.LOST)), within=1.0)

    lost = far.event(EventKind.LOST)
    assert (lost.code, lost.by_peer) == (ErrorCode.DENIED, True)
    assert reason.startswith(lost.reason)
    assert len(lost.reason) >= 50
    assert not caplog.records


def test_closing_twice_is_closing_once(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    near.close(ErrorCode.DRAIN, "first")
    near.close(ErrorCode.DENIED, "second")
    network.run(lambda: bool(far.events(EventKind.DRAINED) and near.events(EventKind.DRAINED)))
    near.close(ErrorCode.DENIED, "third")

    assert far.event(EventKind.LOST).reason == "first"


def test_both_may_close_at_once(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    near.close(ErrorCode.DRAIN, "near")
    far.close(ErrorCode.DENIED, "far")
    network.run(lambda: bool(far.events(EventKind.DRAINED) and near.events(EventKind.DRAINED)))

    assert near.event(EventKind.LOST).reason == "near"
    assert far.event(EventKind.LOST).reason == "far"


def test_a_dial_given_up_ends_on_both_sides(network: Network) -> None:
    client, server = network.host(agent()), network.host(relay())
    near = client.dial(server)
    network.run_for(0.015)  # the server's answer is on its way
    near.close()
    network.run(lambda: bool(near.events(EventKind.DRAINED)))
    network.run(lambda: bool(server.events(EventKind.DRAINED)), within=11.0)

    assert near.event(EventKind.REFUSED)
    assert not server.events(EventKind.CONNECTED)


def test_a_silent_path_ends_the_connection(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    network.passes = lambda _: False
    began = network.now
    network.run(lambda: bool(near.events(EventKind.LOST) and far.events(EventKind.LOST)), within=11)

    assert network.now - began == pytest.approx(10.0, abs=0.5)
    for end in ends:
        lost = end.event(EventKind.LOST)
        assert (lost.timed_out, lost.by_peer) == (True, False)
        assert lost.code == ErrorCode.NONE  # nobody gave one


def test_pings_keep_a_quiet_connection(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    for _ in range(20):
        network.run_for(3.0)
        near.ping()

    assert not near.events(EventKind.LOST)
    assert not far.events(EventKind.LOST)
    assert network.transfer(far, near, b"still there") == b"still there"


def test_a_quiet_connection_without_pings_ends(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    network.run(lambda: bool(near.events(EventKind.LOST) and far.events(EventKind.LOST)), within=11)

    assert near.event(EventKind.LOST).timed_out


def test_an_idle_engine_asks_for_no_timer(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    near.close()
    network.run_for(30.0)

    assert near.host.engine.next_deadline() is None
    assert far.host.engine.next_deadline() is None


def test_a_restarted_peer_ends_the_connection_with_the_next_packet(
    network: Network, ends: tuple[End, End]
) -> None:
    near, far = ends
    network.replace(far.host, relay())
    near.ping()
    network.run(lambda: bool(near.events(EventKind.LOST)), within=0.1)
    lost = near.event(EventKind.LOST)

    assert (lost.timed_out, lost.by_peer, lost.code) == (True, False, ErrorCode.NONE)
    assert "restarted" in lost.reason
    network.run(lambda: bool(near.events(EventKind.DRAINED)))


def test_a_restarted_peer_answers_each_packet_of_a_burst(
    network: Network, ends: tuple[End, End]
) -> None:
    near, far = ends
    network.replace(far.host, relay())
    Source(near, near.must_open(), payload(1 << 20))
    network.run(lambda: bool(near.events(EventKind.DRAINED)), within=0.1)

    assert near.event(EventKind.LOST).timed_out


def test_a_peer_restarted_with_another_key_is_noticed_by_its_silence(
    network: Network, ends: tuple[End, End]
) -> None:
    near, far = ends
    network.replace(far.host, relay(credentials=PKI.relay()))
    near.ping()
    network.run_for(5.0)
    assert not near.events(EventKind.LOST)

    network.run(lambda: bool(near.events(EventKind.LOST)), within=11)

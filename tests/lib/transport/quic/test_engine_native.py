"""What only the native engine does, and what nobody can do to it."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from outrelay.lib.errors import ConfigError, ErrorCode
from outrelay.lib.transport.quic import engines as choices
from outrelay.lib.transport.quic.engine import STREAM_WINDOW, STREAMS, Engine, EventKind
from outrelay.lib.transport.quic.native_connection import STREAMS_FIRST
from tests.lib.transport.quic import engines
from tests.lib.transport.quic.engines import AGENT, PKI
from tests.lib.transport.quic.windows import window_after
from tests.support.native import needs_native
from tests.support.virtual_quic import Datagram, End, Network, Sink, Source

if TYPE_CHECKING:
    from outrelay.lib.transport.quic.engine_native import NativeEngine

pytestmark = needs_native

NATIVE = choices.EngineChoice.NATIVE
STRANGER = ("203.0.113.9", 9)
MIB = 1 << 20


def agent(**differences: Any) -> Engine:
    return choices.make_engine(engines._agent(differences), NATIVE)


def relay(**differences: Any) -> Engine:
    return choices.make_engine(engines._relay(differences), NATIVE)


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def ends(network: Network) -> tuple[End, End]:
    return network.connect(network.host(agent()), network.host(relay()))


def quic(end: End) -> Any:
    """The extension's connection."""
    made: NativeEngine = end.host.engine  # type: ignore[assignment]
    return made._connections[end.number].quic


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


# Streams


def test_the_window_stays_also_for_a_reader_that_is_quick(
    network: Network, ends: tuple[End, End]
) -> None:
    """quinn-proto has one window for all streams; see docs/decisions."""
    assert window_after(network, ends, pause=0.021) == STREAM_WINDOW


def test_a_read_of_a_stream_that_is_over_is_a_mistake_of_ours(ends: tuple[End, End]) -> None:
    near, _ = ends
    with pytest.raises(KeyError):
        near.read(400)
    with pytest.raises(KeyError):
        near.host.engine.read(near.number + 1, 0, 1)


class Gone:
    """A connection of the extension's that is gone and still has a deadline: some do."""

    def __init__(self, whole: Any) -> None:
        self._whole = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def poll(self, core: object) -> tuple[object, object, float, bool]:
        news, _, _, _ = self._whole.poll(core)
        return news, ("silence", 0, ""), 1.0, True


def test_who_is_gone_is_woken_no_more(ends: tuple[End, End]) -> None:
    near, _ = ends
    made: NativeEngine = near.host.engine  # type: ignore[assignment]
    made._connections[near.number].quic = Gone(quic(near))  # type: ignore[assignment]
    made.ping(near.number)
    assert EventKind.DRAINED in [each.kind for each in made.events()]
    assert made.next_deadline() is None
    made.handle_timeout(2.0)


PROMISED = 4 * (STREAMS_FIRST + 8)
"""Behind the streams that a peer may open to begin with."""


@pytest.fixture
def promised(ends: tuple[End, End]) -> tuple[End, End]:
    """``near`` has opened twice as many streams as it has leave for, and said nothing on any."""
    for _ in range(2 * STREAMS_FIRST):
        ends[0].must_open()
    return ends


def use(near: End) -> None:
    """Say something on as many streams as make the peer give leave for all."""
    for number in range(STREAMS_FIRST):
        near.write(4 * number, b"x")


def test_streams_are_promised_until_the_peer_sees_that_the_first_are_used(
    network: Network, promised: tuple[End, End]
) -> None:
    near, far = promised
    near.write(PROMISED, b"late")
    near.finish(PROMISED)
    assert near.read(PROMISED) == (b"", False)
    sink = Sink(far, PROMISED)
    use(near)
    network.run(lambda: sink.finished)
    assert sink.data == b"late"


def test_a_promised_stream_that_was_given_up_is_so_for_the_peer(
    network: Network, promised: tuple[End, End]
) -> None:
    near, far = promised
    near.write(PROMISED, b"late")
    near.reset(PROMISED, 7)
    near.reset(PROMISED, 8)
    near.stop(PROMISED, 9)
    near.stop(PROMISED + 4, 9)
    near.write(PROMISED + 4, b"only this way")
    assert [each.stream for each in near.events(EventKind.FINISHED)] == [PROMISED]
    use(near)
    network.run_for(0.5)

    assert [(each.stream, each.code) for each in far.events(EventKind.RESET)] == [(PROMISED, 8)]
    stopped = {each.stream: each.code for each in far.events(EventKind.STOPPED)}
    assert stopped == {PROMISED: 9, PROMISED + 4: 9}
    assert far.read(PROMISED + 4) == (b"only this way", False)


def test_no_more_streams_are_promised_than_a_peer_lets_anybody_have(
    network: Network, ends: tuple[End, End]
) -> None:
    near, far = ends
    for _ in range(STREAMS):
        near.must_open()
    assert near.open() is None
    use(near)
    for number in range(STREAMS):
        near.finish(4 * number)
    network.run_for(0.5)
    for number in range(STREAMS):
        far.read(4 * number)
        far.finish(4 * number)
        near.stop(4 * number, 0)
    network.run(lambda: near.open() == 4 * STREAMS)
    assert near.events(EventKind.STREAMS_AVAILABLE)


def test_keys_change_under_a_transfer(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    stream = near.must_open()
    sink = Sink(far, stream)
    Source(near, stream, payload(2 * MIB))
    for part in range(1, 4):
        network.run(lambda part=part: len(sink.data) > part * MIB // 2)  # type: ignore[misc]
        quic(near).update_keys()
    network.run(lambda: sink.finished)

    assert sink.data == payload(2 * MIB)


# ECN


def transfer_marking(
    network: Network, ends: tuple[End, End], mark: Callable[[Datagram], int]
) -> list[Datagram]:
    """What the near end sends during a transfer, when the network marks it so."""
    near, far = ends
    sent: list[Datagram] = []

    def passes(datagram: Datagram) -> bool:
        if datagram.source != near.host.address or datagram in marked:
            return True
        sent.append(datagram)
        marked.append(datagram._replace(ecn=mark(datagram)))
        network.send(marked[-1])
        return False

    marked: list[Datagram] = []
    network.passes = passes
    assert network.transfer(near, far, payload(MIB)) == payload(MIB)
    return sent


def test_what_the_path_marks_as_congested_slows_the_sender(
    network: Network, ends: tuple[End, End]
) -> None:
    transfer_marking(network, ends, lambda datagram: datagram.ecn)
    began = network.now
    transfer_marking(network, ends, lambda datagram: datagram.ecn)
    usual = network.now - began
    for _ in range(10):
        began = network.now
        sent = transfer_marking(network, ends, lambda datagram: 3)

    assert {datagram.ecn for datagram in sent} == {2}
    assert network.now - began > 2 * usual


def test_a_path_that_bleaches_codepoints_is_sent_none(
    network: Network, ends: tuple[End, End]
) -> None:
    sent = transfer_marking(network, ends, lambda _: 0)

    assert sent[0].ecn == 2
    assert sent[-1].ecn == 0


# Certificates


def test_certificates_are_exchanged_without_a_new_listener(
    network: Network, ends: tuple[End, End]
) -> None:
    near, far = ends
    renewed = PKI.relay(name="r2")
    far.host.engine.show(renewed)
    later, _ = network.connect(network.host(agent()), far.host)

    peer = later.event(EventKind.CONNECTED).peer
    assert peer is not None
    assert peer.identity == renewed.identity
    assert network.transfer(near, far, b"still there") == b"still there"


def test_a_key_that_rustls_cannot_use_is_told(network: Network, ends: tuple[End, End]) -> None:
    odd = PKI.forge(AGENT.identity, private_key=ec.generate_private_key(ec.SECP521R1()))
    with pytest.raises(ConfigError, match="--quic-engine aioquic"):
        agent(credentials=odd)
    near, far = ends
    with pytest.raises(ConfigError):
        near.host.engine.show(odd)

    assert network.transfer(near, far, b"unharmed") == b"unharmed"


@pytest.mark.parametrize("address", [("no address", 1), ("192.0.2.1", 0), ("fe80::1%lo", 1)])
def test_what_is_no_address_cannot_be_dialled(address: tuple[str, int]) -> None:
    engine = agent()
    number = engine.connect(address, roles=(), server_name="localhost", now=1.0)

    refused, drained = engine.events()
    assert (refused.kind, refused.address) == (EventKind.REFUSED, address)
    assert (drained.kind, drained.connection) == (EventKind.DRAINED, number)
    engine.receive(memoryview(bytes(100)), 100, ("fe80::1%lo", 1), 1.0)


@pytest.mark.parametrize("name", ["127.0.0.1", "under_score.example", "", "a" * 300])
def test_any_server_name_may_be_asked_for(network: Network, name: str) -> None:
    near = network.host(agent()).dial(network.host(relay()), server_name=name)
    network.run(lambda: bool(near.events(EventKind.CONNECTED) or near.events(EventKind.REFUSED)))

    assert bool(near.events(EventKind.CONNECTED)) == (name == "")


# What arrives


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.binary(min_size=1, max_size=1500), min_size=1, max_size=5))
def test_random_datagrams_do_nothing(datagrams: list[bytes]) -> None:
    engine = relay()
    for datagram in datagrams:
        engine.receive(memoryview(datagram), len(datagram), STRANGER, 1.0)
    answers = engine.transmits(1.0)

    assert engine.events() == []
    assert all(len(answer.buffers[0]) <= max(map(len, datagrams)) for answer in answers)


class Mutations:
    """Damages datagrams on their way: bits, lengths, order; the originals may follow.

    Args:
        chance: Decides.
        network: Where they go.
    """

    def __init__(self, chance: random.Random, network: Network) -> None:
        self._chance = chance
        self._network = network
        self._is_sending = False
        self.damaged = 0

    def passes(self, datagram: Datagram) -> bool:
        """Whether the datagram itself arrives."""
        if self._is_sending or self._chance.random() > 0.3:
            return True
        self._is_sending = True
        self._network.send(datagram._replace(data=self._damage(bytearray(datagram.data))))
        self._is_sending = False
        self.damaged += 1
        return self._chance.random() < 0.7

    def _damage(self, data: bytearray) -> bytes:
        chance = self._chance
        for _ in range(chance.choice([1, 1, 3, 30])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        end = chance.choice([len(data), len(data), chance.randrange(1, len(data) + 1)])
        return bytes(data[:end]) + chance.randbytes(chance.choice([0, 0, 40]))


@pytest.mark.parametrize("seed", range(12))
def test_damaged_datagrams_of_a_real_conversation_are_survived(seed: int) -> None:
    network = Network(seed=seed)
    mutations = Mutations(random.Random(seed), network)
    network.passes = mutations.passes
    options = {"handshake_timeout": 60.0, "idle_timeout": 60.0}
    near, far = network.connect(
        network.host(agent(**options)), network.host(relay(**options)), within=60.0
    )
    for data in (payload(100_000), payload(200_000)):
        assert network.transfer(near, far, data) == data
        assert network.transfer(far, near, data) == data

    assert mutations.damaged > 50


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_the_shell_asks_it_is_no_panic(data: st.DataObject) -> None:
    """Numbers out of order, of nobody, too large: KeyError or ValueError, and life goes on."""
    network = Network()
    near, far = network.connect(network.host(agent()), network.host(relay()))
    numbers = st.sampled_from([near.number, near.number, near.number, 0, 77, 1 << 60])
    streams = st.sampled_from([0, 0, 4, 1, 2, 3, 4 * 1023, (1 << 62) - 1, 1 << 62, (1 << 64) - 1])
    engine = near.host.engine
    for _ in range(data.draw(st.integers(1, 12))):
        number, stream = data.draw(numbers), data.draw(streams)
        code = data.draw(st.sampled_from([0, 1, (1 << 62) - 1, 1 << 62]))
        call: Callable[[], object] = data.draw(
            st.sampled_from(
                [
                    lambda: engine.open_stream(number),  # noqa: B023 - called at once
                    lambda: engine.read(number, stream, 100),  # noqa: B023
                    lambda: engine.write(number, stream, memoryview(b"x" * 1000)),  # noqa: B023
                    lambda: engine.finish(number, stream),  # noqa: B023
                    lambda: engine.reset(number, stream, code),  # noqa: B023
                    lambda: engine.stop_sending(number, stream, code),  # noqa: B023
                    lambda: engine.unsent(number, stream),  # noqa: B023
                    lambda: engine.ping(number),  # noqa: B023
                    lambda: network.run_for(0.02),
                ]
            )
        )
        with suppress(KeyError, ValueError):
            call()
    near.host.settle()
    if not near.events(EventKind.LOST):
        near.close(ErrorCode.NONE, "")
    network.run(lambda: bool(near.events(EventKind.DRAINED)))
    network.run(lambda: bool(far.events(EventKind.DRAINED)), within=11.0)


def test_a_fault_inside_ends_one_connection(
    network: Network, ends: tuple[End, End], capfd: pytest.CaptureFixture[str]
) -> None:
    near, far = ends
    other, _ = network.connect(near.host, far.host)
    quic(near).finish(3)  # a stream on which only the peer may send

    network.run(lambda: bool(near.events(EventKind.DRAINED)), within=1.0)
    lost = near.event(EventKind.LOST)
    assert "fault" in lost.reason
    assert (lost.by_peer, lost.timed_out) == (False, False)
    assert network.transfer(other, End(far.host, 2), b"unharmed") == b"unharmed"
    assert "panicked" in capfd.readouterr().err

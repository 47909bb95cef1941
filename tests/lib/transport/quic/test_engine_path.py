"""The path: how large datagrams may be, and what happens when it moves or goes dark.

Source: RFC 8899, RFC 9000 sections 9 and 14; protocol.md section 1.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from outrelay.lib.transport.quic.engine import DATAGRAM_SIZES, EventKind
from outrelay.lib.transport.quic.engines import EngineChoice
from tests.lib.transport.quic.engines import agent, relay
from tests.support import virtual_quic
from tests.support.virtual_quic import Datagram, End, Network, Path, Sink, Source

pytestmark = pytest.mark.usefixtures("each_engine")

MIB = 1 << 20


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def ends(network: Network) -> tuple[End, End]:
    return network.connect(network.host(agent()), network.host(relay()))


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def full_size(end: End) -> int:
    """The size of the largest datagram of many sent since the last look."""
    sizes = Counter(end.host.sent_sizes)
    end.host.sent_sizes.clear()
    return max(size for size, times in sizes.items() if times > sizes.total() // 4)


# Size


@pytest.mark.parametrize("mtu", [1200, 65_535])
def test_a_handshake_needs_datagrams_of_1200_bytes_at_most(mtu: int) -> None:
    network = Network(path=Path(mtu=mtu))
    began = network.now
    network.connect(network.host(agent()), network.host(relay()))

    assert network.now - began < 0.05  # nothing was sent twice


def test_probes_raise_the_size_to_the_largest(network: Network, ends: tuple[End, End]) -> None:
    network.run_for(2.0)
    for source, target in (ends, ends[::-1]):
        source.host.sent_sizes.clear()
        assert network.transfer(source, target, payload(MIB)) == payload(MIB)
        assert full_size(source) == DATAGRAM_SIZES[-1]


@pytest.mark.parametrize(("mtu", "found"), [(1200, 1200), (1279, 1200), (1399, 1280), (1451, 1400)])
def test_the_size_is_the_largest_that_passes(
    mtu: int, found: int, each_engine: EngineChoice
) -> None:
    network = Network(path=Path(mtu=mtu))
    near, far = network.connect(network.host(agent()), network.host(relay()))
    network.run_for(8.0)
    near.host.sent_sizes.clear()

    assert network.transfer(near, far, payload(MIB)) == payload(MIB)
    size = full_size(near)
    if each_engine is EngineChoice.NATIVE:  # which tries sizes of its own
        assert found <= size <= mtu
    else:
        assert size == found


def test_a_larger_size_may_be_configured(network: Network) -> None:
    sizes = (*DATAGRAM_SIZES, 4000)
    near, far = network.connect(
        network.host(agent(datagram_sizes=sizes)), network.host(relay(datagram_sizes=sizes))
    )
    network.run_for(2.0)
    near.host.sent_sizes.clear()
    assert network.transfer(near, far, payload(MIB)) == payload(MIB)

    assert full_size(near) == 4000


def test_a_path_that_drops_probes_is_left_alone(network: Network) -> None:
    network.path = Path(mtu=1200)
    near, _ = network.connect(network.host(agent()), network.host(relay()))
    probes = []
    for _ in range(40):
        network.run_for(3.0)
        near.ping()
        probes.append(len([size for size in near.host.sent_sizes if size > 1200]))

    assert 3 <= probes[-1] <= 20
    assert probes[10] == probes[-1]


def test_the_search_begins_again_some_day(network: Network) -> None:
    network.path = Path(mtu=1200)
    near, far = network.connect(network.host(agent()), network.host(relay()))
    for _ in range(250):
        network.run_for(3.0)
        near.ping()
        network.path = Path()
    near.host.sent_sizes.clear()

    assert network.transfer(near, far, payload(MIB)) == payload(MIB)
    assert full_size(near) == 1452


@pytest.mark.parametrize("mtu", [1200, 1300])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_path_that_begins_to_drop_large_datagrams_is_survived(
    network: Network, ends: tuple[End, End], mtu: int, direction: str
) -> None:
    source, target = ends if direction == "up" else ends[::-1]
    network.run_for(2.0)
    stream = source.must_open()
    sink = Sink(target, stream)
    Source(source, stream, payload(2 * MIB))
    network.run(lambda: len(sink.data) > MIB // 2)
    assert full_size(source) == 1452

    network.path = Path(mtu=mtu)
    network.run(lambda: sink.finished, within=20)
    assert sink.data == payload(2 * MIB)
    source.host.sent_sizes.clear()
    assert network.transfer(source, target, payload(MIB)) == payload(MIB)
    assert full_size(source) <= mtu


# Addresses


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_transfer_survives_a_change_of_the_clients_address(
    network: Network, ends: tuple[End, End], direction: str
) -> None:
    near, far = ends
    source, target = ends if direction == "up" else ends[::-1]
    stream = source.must_open()
    sink = Sink(target, stream)
    Source(source, stream, payload(2 * MIB))
    for part in range(1, 4):
        network.run(lambda part=part: len(sink.data) > part * MIB // 2, within=20)  # type: ignore[misc]
        network.move(near.host)
        near.ping()
    network.run(lambda: sink.finished, within=20)

    assert sink.data == payload(2 * MIB)
    assert far.host.engine.address(far.number) == near.host.address


def test_the_other_end_knows_the_new_address(network: Network, ends: tuple[End, End]) -> None:
    near, far = ends
    before = near.host.address
    network.move(near.host)
    assert far.host.engine.address(far.number) == before
    near.ping()
    network.run_for(1.0)

    assert far.host.engine.address(far.number) == near.host.address != before
    assert network.transfer(far, near, payload(MIB)) == payload(MIB)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_new_address_is_asked_again_when_its_answer_is_lost(
    network: Network, ends: tuple[End, End], lost: int, each_engine: EngineChoice
) -> None:
    near, far = ends
    stream = far.must_open()
    sink = Sink(near, stream)
    Source(far, stream, payload(MIB))
    network.run(lambda: len(sink.data) > MIB // 4)
    answers: list[Datagram] = []

    def lose_answers(datagram: Datagram) -> bool:
        is_answer = datagram.source == near.host.address and len(datagram.data) >= 1200
        if is_answer and len(answers) < lost:
            answers.append(datagram)
            return False
        return True

    network.passes = lose_answers
    network.move(near.host)
    for _ in range(1 if each_engine is EngineChoice.AIOQUIC else 2 * lost + 1):
        near.ping()  # as the endpoint does; the native engine asks again when it hears of us
        network.run_for(1.0)

    assert sink.finished
    assert len(answers) == lost


def test_a_packet_repeated_from_elsewhere_moves_nothing(
    network: Network, ends: tuple[End, End]
) -> None:
    near, far = ends
    thief = network.host(agent())
    seen = network.watch()
    near.ping()
    network.run_for(1.0)
    for datagram in seen.copy():
        network.send(datagram._replace(source=thief.address))
    network.run_for(1.0)

    assert far.host.engine.address(far.number) == near.host.address
    assert not thief.log


def test_a_packet_overtaken_from_elsewhere_does_not_keep_the_connection(
    network: Network, ends: tuple[End, End]
) -> None:
    """Somebody on the path forwards a client's packets faster, from another address."""
    near, far = ends
    thief = network.host(agent())

    def steal(datagram: Datagram) -> bool:
        if datagram.source == near.host.address:
            network.passes = lambda _: True
            network.send(datagram._replace(source=thief.address))
            return False
        return True

    network.passes = steal
    near.ping()
    network.run_for(3.0)
    near.ping()
    network.run_for(1.0)

    assert far.host.engine.address(far.number) == near.host.address
    assert network.transfer(far, near, payload(MIB)) == payload(MIB)


@pytest.mark.parametrize("probing", [True, False])
def test_an_address_that_never_answers_gets_little(network: Network, probing: bool) -> None:
    """Else a relay would flood whoever a client says it is (RFC 9000 section 8.1)."""
    near, far = network.connect(network.host(agent()), network.host(relay()))
    if not probing:
        network.run_for(1.0)
    stream = far.must_open()
    Source(far, stream, payload(MIB))
    network.run(lambda: bool(near.events(EventKind.READABLE)))
    victim = ("203.0.113.9", 9)
    sent = network.watch()
    forged = 0

    def steal(datagram: Datagram) -> bool:
        nonlocal forged
        if datagram.source == near.host.address and forged < 1_000:
            forged += len(datagram.data)
            network.send(datagram._replace(source=victim))
        return datagram.source != near.host.address

    network.passes = steal
    near.ping()
    network.run_for(9.0)

    received = sum(len(datagram.data) for datagram in sent if datagram.target == victim)
    assert 0 < received <= 3 * forged + DATAGRAM_SIZES[-1]  # the last may begin below the bound


@pytest.mark.parametrize("late", [0.05, 0.3])
def test_timers_that_come_late_slow_a_transfer_but_do_not_break_it(
    monkeypatch: pytest.MonkeyPatch, late: float
) -> None:
    monkeypatch.setattr(virtual_quic, "GRANULARITY", late)
    network = Network(seed=3, path=Path(loss=0.02))
    near, far = network.connect(network.host(agent()), network.host(relay()))

    assert network.transfer(near, far, payload(100_000)) == payload(100_000)


# Darkness


@pytest.mark.parametrize("seconds", [0.2, 1.0, 5.0])
def test_a_transfer_goes_on_after_a_pause_of_the_path(
    network: Network, ends: tuple[End, End], seconds: float
) -> None:
    near, far = ends
    stream = near.must_open()
    sink = Sink(far, stream)
    Source(near, stream, payload(2 * MIB))
    network.run(lambda: len(sink.data) > MIB // 2)

    network.passes = lambda _: False
    network.run_for(seconds)
    network.passes = lambda _: True
    network.run(lambda: sink.finished, within=20)
    assert sink.data == payload(2 * MIB)

    network.run_for(1.0)
    near.host.sent_sizes.clear()
    network.transfer(near, far, payload(MIB))
    assert full_size(near) == DATAGRAM_SIZES[-1]  # it was not the datagrams' size

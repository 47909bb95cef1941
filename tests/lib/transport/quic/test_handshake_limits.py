"""What one source may ask of a relay, what others may ask in its name, and what is told."""

from __future__ import annotations

import pytest

from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.quic import engine_aioquic
from outrelay.lib.transport.quic.engine import EventKind
from outrelay.lib.transport.quic.gate import Gate
from outrelay.lib.transport.quic.header import parse_header
from outrelay.lib.transport.refusal import Cause
from tests.lib.transport.quic.engines import agent, relay
from tests.support.hostile_quic import Hello, is_retry
from tests.support.virtual_quic import Datagram, End, Host, Network

pytestmark = pytest.mark.usefixtures("each_engine")

NAT = "198.51.100.7"
"""The address many agents share."""

ELSEWHERE = "203.0.113.9"


@pytest.fixture
def network() -> Network:
    return Network()


def turned_away(server: Host) -> dict[Cause, int]:
    """How often the relay turned somebody away since the last look, by cause."""
    return {refusal.cause: refusal.times for refusal in server.engine.refusals()}


def under_way(server: Host) -> int:
    gate: Gate = server.engine._gate  # type: ignore[attr-defined]
    return gate.under_way


def patient(network: Network, behind: str) -> Host:
    """An agent that keeps asking."""
    return network.host(agent(handshake_timeout=60.0, idle_timeout=60.0), behind=behind)


def begin_proven(network: Network, server: Host, number: int, behind: str = NAT) -> None:
    """Have clients dial that prove their address and vanish then."""
    clients = [network.host(agent(), behind=behind) for _ in range(number)]
    for client in clients:
        client.dial(server)
    network.run_for(0.035)
    for client in clients:
        network.remove(client)


def is_up(end: End) -> bool:
    return bool(end.events(EventKind.CONNECTED))


def spoof(network: Network, server: Host, number: int, host: str) -> None:
    """First packets of many connections that somebody sends in the name of ``host``."""
    hello = Hello()
    for port in range(number):
        network.send(Datagram((host, 1024 + port), server.address, hello.initial()))
    network.run_for(0.02)


# One source


def test_a_source_has_so_many_handshakes_under_way(network: Network) -> None:
    server = network.host(relay(retry_above=0, source_handshakes=2, handshake_timeout=2.0))
    begin_proven(network, server, 5)
    assert under_way(server) == 2
    assert turned_away(server) == {Cause.SOURCE_LIMIT: 3}

    late = patient(network, NAT).dial(server)
    network.run_for(1.0)
    assert not is_up(late)
    network.run(lambda: is_up(late), within=5.0)  # the others have had their time


def test_a_source_begins_so_many_handshakes_a_second(network: Network) -> None:
    server = network.host(relay(retry_above=0, source_rate=2.0, source_burst=3))
    ends = [patient(network, NAT).dial(server) for _ in range(6)]

    network.run_for(0.2)
    assert sum(map(is_up, ends)) == 3
    network.run(lambda: all(map(is_up, ends)), within=5.0)


def test_others_do_not_feel_a_source_that_is_over_its_budget(network: Network) -> None:
    server = network.host(relay(retry_above=0, source_handshakes=2))
    begin_proven(network, server, 10)

    network.connect(network.host(agent(), behind=ELSEWHERE), server, within=0.1)


def test_the_many_behind_one_address_all_get_in_within_seconds(network: Network) -> None:
    """A fifth of 300 agents behind one NAT, and a fifth of every limit."""
    limits = {"retry_above": 12, "source_handshakes": 12, "source_rate": 10.0, "source_burst": 40}
    server = network.host(relay(**limits))
    began = network.now
    ends = [network.host(agent(), behind=NAT).dial(server) for _ in range(60)]
    network.run(lambda: all(map(is_up, ends)), within=5.0)

    assert network.now - began < 4.0
    assert under_way(server) == 0


def test_handshakes_that_came_to_an_end_are_budget_again(network: Network) -> None:
    server = network.host(relay(retry_above=0, source_handshakes=1, handshake_timeout=2.0))
    for _ in range(3):
        network.connect(network.host(agent(), behind=NAT), server)  # done
        begin_proven(network, server, 1)
        network.run_for(2.1 + 1.0)  # given up


# In somebody else's name


def test_nobody_can_be_locked_out_by_what_others_send_in_its_name(network: Network) -> None:
    limits = {"source_handshakes": 4, "source_rate": 1.0, "source_burst": 4}
    server = network.host(relay(retry_above=1000, **limits))
    spoof(network, server, 100, NAT)
    assert under_way(server) == 4
    assert turned_away(server) == {}

    began = network.now
    network.connect(network.host(agent(), behind=NAT), server)
    assert network.now - began == pytest.approx(0.06, abs=0.002)  # it had to prove its address
    network.connect(network.host(agent(), behind=ELSEWHERE), server)
    assert network.now - began == pytest.approx(0.10, abs=0.004)  # it had not


def test_what_a_source_did_unproven_is_answered_with_little(network: Network) -> None:
    server = network.host(relay(source_handshakes=4))
    sent = network.watch()
    spoof(network, server, 100, NAT)
    answers = [each.data for each in sent if each.source == server.address]
    retries = [data for data in answers if is_retry(data)]

    assert len(retries) == 96
    assert max(map(len, retries)) < 200


# Told


@pytest.mark.parametrize(
    ("datagram", "cause"),
    [
        (b"", Cause.NOISE),
        (b"GET / HTTP/1.1\r\n", Cause.FORGOTTEN),  # looks like a short header
        (b"\xc0" + b"GET / HTTP/1.1\r\n", Cause.NOISE),
        (b"\x40" + bytes(50), Cause.FORGOTTEN),
        (Hello().initial()[:1199], Cause.NOISE),
        (Hello().initial()[:40] + bytes(1160), Cause.NOISE),
        (b"\xe0" + Hello().initial()[1:], Cause.NOISE),
        (b"\xc0\xfa\xce\xb0\x0c" + Hello().initial()[5:], Cause.VERSION),
    ],
    ids=["empty", "HTTP", "short", "forgotten", "small", "damaged", "no Initial", "version"],
)
def test_a_datagram_that_begins_nothing_is_counted(datagram: bytes, cause: Cause) -> None:
    engine = relay()
    address: Address = (NAT, 1)
    for _ in range(3):
        engine.receive(memoryview(datagram.ljust(1, b"\0")), max(len(datagram), 1), address, 1.0)

    (refusal,) = engine.refusals()
    assert (refusal.cause, refusal.address, refusal.times) == (cause, address, 3)
    assert engine.refusals() == []


def test_noise_is_not_held_against_every_connection_there_is(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = network.host(relay())
    for _ in range(3):
        network.connect(network.host(agent()), server)
    monkeypatch.setattr(engine_aioquic, "is_reset", lambda *_: pytest.fail("looked"))
    network.send(Datagram((NAT, 1), server.address, b"\x40" + bytes(50)))
    network.run_for(0.02)

    assert turned_away(server) == {Cause.FORGOTTEN: 1}


def test_a_forged_proof_is_counted(network: Network) -> None:
    server = network.host(relay(retry_above=0))
    stolen = []

    def passes(datagram: Datagram) -> bool:
        header = parse_header(datagram.data)
        if header is None or not header.token:
            return True
        stolen.append(datagram._replace(source=(ELSEWHERE, 1)))
        return False

    network.passes = passes
    network.host(agent(), behind=NAT).dial(server)
    network.run_for(0.025)
    network.passes = lambda _: True
    network.send(stolen[0])
    network.run_for(0.02)

    assert turned_away(server) == {Cause.PROOF: 1}


def test_handshakes_above_the_upper_limit_are_counted(network: Network) -> None:
    server = network.host(relay(handshakes_max=2))
    spoof(network, server, 5, NAT)

    assert turned_away(server) == {Cause.LIMIT: 3}

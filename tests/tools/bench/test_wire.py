"""What the wire does to packets: late, in order, and the same ones lost for the same seed."""

from __future__ import annotations

import pytest

from outrelay.tools.bench import wire
from outrelay.tools.bench.wire import Direction, Impairment

PACKETS = [bytes([number]) * 100 for number in range(200)]


def carried(path: Impairment, seed: int = 1) -> list[bytes]:
    """What arrives of packets that all came at once."""
    way = Direction(path, seed)
    for packet in PACKETS:
        way.take(packet, 0.0)
    return list(iter(lambda: way.due(1e9), None))


def test_a_packet_leaves_when_its_time_has_come_and_not_before() -> None:
    way = Direction(Impairment(delay=0.05), 1)
    assert Direction(Impairment(), 1).next_at is None
    way.take(b"one", 10.0)
    way.take(b"two", 10.001)
    assert way.next_at == 10.05
    assert way.due(10.0499) is None
    assert way.due(10.05) == b"one"
    assert way.due(10.05) is None
    assert way.due(10.06) == b"two"
    assert way.count.passed == 2
    assert way.count.latest == pytest.approx(0.009)


def test_what_is_lost_is_told_by_the_seed() -> None:
    path = Impairment(loss=0.1)
    some = carried(path)
    assert some == carried(path)
    assert some != carried(path, seed=2)
    assert 150 < len(some) < 200


def test_the_nth_packet_has_the_same_fate_whatever_its_size() -> None:
    path, small = Impairment(loss=0.1), Direction(Impairment(loss=0.1), 1)
    for packet in PACKETS:
        small.take(packet[:1], 0.0)
    arrived = list(iter(lambda: small.due(1.0), None))
    assert arrived == [packet[:1] for packet in carried(path)]
    assert small.count.lost == 200 - len(arrived)


def test_packets_take_turns_at_the_path_s_rate() -> None:
    way = Direction(Impairment(rate=1000.0), 1)
    for packet in PACKETS[:3]:
        way.take(packet, 0.0)
    assert [way.due(0.05), way.due(0.1), way.due(0.15), way.due(0.2)] == [
        None, PACKETS[0], None, PACKETS[1],
    ]  # fmt: skip
    assert way.next_at == pytest.approx(0.3)


def test_more_than_may_wait_is_dropped() -> None:
    way = Direction(Impairment(rate=1000.0, queue=250), 1)
    for packet in PACKETS[:5]:
        way.take(packet, 0.0)
    assert way.count.overflowed == 2
    assert way.due(10.0) == PACKETS[0]
    way.take(PACKETS[5], 0.3)
    assert way.count.overflowed == 2


def test_what_is_under_way_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_UNDER_WAY", 250)
    way = Direction(Impairment(delay=1.0), 1)
    for packet in PACKETS[:5]:
        way.take(packet, 0.0)
    assert way.count.overflowed == 3
    assert way.count.largest == 100

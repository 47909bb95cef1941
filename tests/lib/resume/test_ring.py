"""The ring: what it holds, what it lets go, and what all rings share."""

from __future__ import annotations

from outrelay.lib.resume.ring import GATHERED, LITTLE, SMALL, Budget, Ring


def ring(most: int = 100, total: int = 1000) -> Ring:
    return Ring(most, Budget(total))


def held(ring: Ring, position: int) -> bytes:
    return b"".join(ring.since(position))


def test_bytes_are_held_from_start_to_end() -> None:
    one = ring()
    one.append(b"abc")
    one.append(b"defg")
    assert (one.start, one.end) == (0, 7)
    assert [held(one, at) for at in (0, 2, 3, 4, 7)] == [b"abcdefg", b"cdefg", b"defg", b"efg", b""]


def test_what_is_acknowledged_is_let_go_chunk_by_chunk() -> None:
    one = ring(most=3 * SMALL, total=3 * SMALL)
    one.append(b"a" * SMALL)
    one.append(b"b" * SMALL)
    one.acknowledge(2)
    assert (one.start, one.room) == (2, SMALL)
    assert held(one, 2) == b"a" * (SMALL - 2) + b"b" * SMALL
    one.acknowledge(SMALL)
    assert (held(one, SMALL), one.room) == (b"b" * SMALL, 2 * SMALL)
    one.acknowledge(2 * SMALL)
    assert (held(one, 2 * SMALL), one.room) == (b"", 3 * SMALL)


def test_it_takes_no_more_than_it_may_hold() -> None:
    one = ring(most=5)
    one.append(b"abcd")
    assert one.room == 1
    one.append(b"e")
    assert one.room == 0
    one.append(b"")
    assert one.end == 5


def test_rings_share_a_budget() -> None:
    budget = Budget(10)
    one, other = Ring(8, budget), Ring(8, budget)
    one.append(b"x" * 7)
    assert (other.room, budget.free) == (3, 3)
    one.acknowledge(7)
    assert other.room == 8
    other.append(b"y" * 8)
    other.release()
    assert (budget.held, other.start, other.end) == (0, 8, 8)


def test_a_quarter_of_the_budget_is_for_rings_that_hold_little() -> None:
    budget = Budget(8 * LITTLE)
    much = Ring(100 * LITTLE, budget)
    much.append(bytes(much.room))
    assert (much.end, much.room) == (6 * LITTLE, 0)
    for _ in range(2):
        little = Ring(100 * LITTLE, budget)
        little.append(b"x")
        assert little.room == LITTLE - 1
        little.append(bytes(little.room))
        assert little.room == 0
    assert Ring(100 * LITTLE, budget).room == budget.free == 0
    much.acknowledge(much.end)
    assert little.room == 4 * LITTLE


def test_chunks_are_not_copied() -> None:
    one = ring(most=SMALL, total=SMALL)
    chunk = b"x" * SMALL
    one.append(chunk)
    (part,) = one.since(0)
    assert part.obj is chunk


def test_small_chunks_are_gathered() -> None:
    one = ring(most=10 * GATHERED, total=10 * GATHERED)
    for number in range(GATHERED + 10):
        one.append(bytes([number % 251]))
    assert [len(each) for each in one.since(0)] == [GATHERED, 10]
    assert held(one, 0) == bytes(number % 251 for number in range(GATHERED + 10))


def test_what_is_looked_at_does_not_grow() -> None:
    one = ring()
    one.append(b"abc")
    (part,) = one.since(1)
    one.append(b"def")
    assert bytes(part) == b"bc"
    assert held(one, 0) == b"abcdef"
    one.acknowledge(6)
    one.append(b"g")
    assert held(one, 6) == b"g"

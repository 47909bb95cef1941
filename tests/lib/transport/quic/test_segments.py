"""Batches taken apart and put together lose nothing and keep the kernel's rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.quic.segments import BATCH_MAX, SEGMENTS_MAX, segment, split

HERE, THERE = ("192.0.2.1", 7443), ("2001:db8::1", 7443)
SIZES = [1, 41, 1199, 1200, 1452, 9000, BATCH_MAX]

outgoing = st.lists(
    st.tuples(st.sampled_from(SIZES), st.sampled_from([HERE, THERE])).map(
        lambda drawn: (bytes(drawn[0]), drawn[1])
    ),
    max_size=80,
)


@given(st.binary(min_size=1, max_size=300), st.integers(0, 400))
def test_split_gives_back_what_came_together(data: bytes, size: int) -> None:
    datagrams = list(split(memoryview(data), size))

    assert b"".join(datagrams) == data
    if size:
        assert all(len(datagram) == size for datagram in datagrams[:-1])
        assert 0 < len(datagrams[-1]) <= size
    else:
        assert len(datagrams) == 1


@given(outgoing)
def test_segment_keeps_every_datagram_in_its_place(
    datagrams: list[tuple[bytes, Address]],
) -> None:
    batches = segment(datagrams)

    kept = [(buffer, batch.address) for batch in batches for buffer in batch.buffers]
    assert kept == datagrams


@given(outgoing)
def test_segment_keeps_the_rules_of_the_kernel(datagrams: list[tuple[bytes, Address]]) -> None:
    for batch in segment(datagrams):
        sizes = [len(buffer) for buffer in batch.buffers]
        assert all(size == batch.segment_size for size in sizes[:-1])
        assert sizes[-1] <= batch.segment_size
        assert len(sizes) <= SEGMENTS_MAX
        assert sum(sizes) <= BATCH_MAX


def test_one_send_carries_as_much_as_the_kernel_takes() -> None:
    small = segment([(bytes(100), HERE)] * (SEGMENTS_MAX + 1))
    large = segment([(bytes(1452), HERE)] * (BATCH_MAX // 1452 + 1))

    assert [len(batch.buffers) for batch in small] == [SEGMENTS_MAX, 1]
    assert [len(batch.buffers) for batch in large] == [BATCH_MAX // 1452, 1]


def test_a_shorter_datagram_ends_its_batch() -> None:
    sizes = [1200, 1200, 300, 300, 1200]
    batches = segment((bytes(size), HERE) for size in sizes)

    assert [[len(buffer) for buffer in batch.buffers] for batch in batches] == [
        [1200, 1200, 300],
        [300],
        [1200],
    ]


def test_each_address_has_batches_of_its_own() -> None:
    batches = segment([(b"1", HERE), (b"2", HERE), (b"3", THERE), (b"4", HERE)])

    assert [(batch.address, b"".join(batch.buffers)) for batch in batches] == [
        (HERE, b"12"),
        (THERE, b"3"),
        (HERE, b"4"),
    ]


def test_an_address_with_flow_and_scope_is_brought_to_its_two_parts() -> None:
    (batch,) = segment([(b"1", ("fe80::1", 7443, 0, 3))])

    assert batch.address == ("fe80::1", 7443)

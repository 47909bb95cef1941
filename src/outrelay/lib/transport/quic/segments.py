"""Batches of datagrams: one system call in, one out.

With UDP_GRO the kernel hands over datagrams of equal size as one buffer; with UDP_SEGMENT
it takes one. Only the last of a batch may be shorter.

Source: Linux udp(7).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.quic.engine import Transmit

SEGMENTS_MAX = 64
"""What the kernel takes in one UDP_SEGMENT send."""

BATCH_MAX = 65000
"""Bytes of payload of one send; the limit of an IP datagram less its headers."""


def split(data: memoryview, segment_size: int) -> Iterator[bytes]:
    """The datagrams in one received buffer; ``segment_size`` 0 means it is just one."""
    if not segment_size or segment_size >= len(data):
        yield bytes(data)
        return
    for start in range(0, len(data), segment_size):
        yield bytes(data[start : start + segment_size])


def segment(datagrams: Iterable[tuple[bytes, Sequence[object]]]) -> list[Transmit]:
    """Group consecutive datagrams of one address and size, a shorter one last."""
    batches: list[Transmit] = []
    buffers: list[bytes] = []
    target: Sequence[object] | None = None
    size = total = 0
    for datagram, address in datagrams:
        length = len(datagram)
        if (
            not buffers
            or address != target
            or length > size
            or len(buffers[-1]) < size
            or len(buffers) == SEGMENTS_MAX
            or total + length > BATCH_MAX
        ):
            buffers = []
            target, size, total = address, length, 0
            batches.append(Transmit(_address(address), buffers, length))
        buffers.append(datagram)
        total += length
    return batches


def _address(address: Sequence[object]) -> Address:
    return (str(address[0]), int(str(address[1])))

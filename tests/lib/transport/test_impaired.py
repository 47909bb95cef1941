"""QUIC over paths that lose, delay, reorder, move and shrink."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from outrelay.lib.transport.quic.engine import DATAGRAM_SIZES
from tests.lib.transport.carriers import QuicHarness
from tests.lib.transport.streams import MIB, exchange, read_exactly, round_trips, send
from tests.support.impair import Impairment

KIB = 1 << 10


@pytest.mark.both_loops
@pytest.mark.parametrize(
    ("path", "size"),
    [
        (Impairment(delay=0.02, loss=0.01), MIB),
        (Impairment(delay=0.02, loss=0.05), 256 * KIB),
        (Impairment(delay=0.005, reorder=0.05), MIB),
        (Impairment(delay=0.005, rate=4e6, queue=64 * KIB), 2 * MIB),
    ],
    ids=["1% loss", "5% loss", "reordering", "narrow"],
)
async def test_bytes_survive_the_path(quic: QuicHarness, path: Impairment, size: int) -> None:
    pair, proxy = await quic.connect_through(path, seed=11)
    await exchange(pair, size)
    for count in (proxy.to_server, proxy.to_client):
        assert count.passed > size / DATAGRAM_SIZES[-1]
        assert bool(path.loss) == bool(count.lost)


@pytest.mark.both_loops
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_transfer_goes_on_when_the_client_moves(quic: QuicHarness, direction: str) -> None:
    pair, proxy = await quic.connect_through(Impairment(delay=0.002))
    before = pair.far.peer_address
    near, far = await pair.stream()
    source, sink = (near, far) if direction == "up" else (far, near)

    async def receive_on_the_move() -> str:
        digest = hashlib.sha256(await read_exactly(sink, MIB))
        proxy.move()
        while part := await sink.read():
            digest.update(part)
        return digest.hexdigest()

    async with asyncio.TaskGroup() as group:
        sent = group.create_task(send(source, 5, 4 * MIB), name="send")
        got = group.create_task(receive_on_the_move(), name="receive")
    assert got.result() == sent.result()
    assert pair.far.peer_address != before
    await round_trips(await pair.stream_back())


async def test_datagrams_grow_to_what_the_path_carries(quic: QuicHarness) -> None:
    pair, proxy = await quic.connect_through(Impairment())
    await exchange(pair, 4 * MIB)
    assert proxy.to_server.largest == proxy.to_client.largest == DATAGRAM_SIZES[-1]


@pytest.mark.parametrize("mtu", [1200, 1300])
async def test_a_path_that_swallows_large_datagrams(quic: QuicHarness, mtu: int) -> None:
    pair, proxy = await quic.connect_through(Impairment(mtu=mtu))
    await exchange(pair, 4 * MIB)
    largest = max(size for size in DATAGRAM_SIZES if size <= mtu)
    assert proxy.to_server.largest == proxy.to_client.largest == largest


async def test_a_path_that_shrinks(quic: QuicHarness) -> None:
    pair, proxy = await quic.connect_through(Impairment())
    await exchange(pair, 4 * MIB)
    proxy.path = Impairment(mtu=1250)
    await exchange(pair, MIB)
    assert proxy.to_server.too_large > 0
    assert proxy.to_client.too_large > 0

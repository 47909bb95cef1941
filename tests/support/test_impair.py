"""The impaired path does to datagrams what it says, the same way each time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.impair import Address, Impairment, UdpPort, UdpProxy

pytestmark = pytest.mark.both_loops


class Peer:
    """Remembers what came, and from where; a server echoes too."""

    def __init__(self, *, echoes: bool = False) -> None:
        self.port = UdpPort(("127.0.0.1", 0), self._received)
        self.got: list[bytes] = []
        self.senders: list[Address] = []
        self._echoes = echoes
        self._changed = asyncio.Event()

    def _received(self, data: bytes, sender: Address) -> None:
        self.got.append(data)
        self.senders.append(sender)
        self._changed.set()
        if self._echoes:
            self.port.send(data, sender)

    async def until(self, count: int) -> None:
        """Wait until so many datagrams have come."""
        async with asyncio.timeout(10):
            while len(self.got) < count:
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def proxied(path: Impairment, seed: int = 1) -> AsyncIterator[tuple[Peer, UdpProxy, Peer]]:
    client, server = Peer(), Peer(echoes=True)
    try:
        async with UdpProxy(server.port.address, path, seed=seed) as proxy:
            yield client, proxy, server
    finally:
        client.port.close()
        server.port.close()


async def survivors(path: Impairment, seed: int, count: int = 300) -> list[int]:
    """Which of ``count`` numbered datagrams come back, in their order."""
    async with proxied(path, seed) as (client, proxy, server):
        for number in range(count):
            client.port.send(b"%d" % number, proxy.address)
        await proxy.until_seen(count)
        await server.until(proxy.to_server.passed)
        await proxy.until_answered(len(server.got))
        await client.until(proxy.to_client.passed)
        return [int(data) for data in client.got]


async def test_a_path_without_impairment_passes_everything_in_order() -> None:
    assert await survivors(Impairment(), seed=1) == list(range(300))


async def test_delay_keeps_the_order() -> None:
    assert await survivors(Impairment(delay=0.01), seed=1) == list(range(300))


async def test_loss_is_the_same_for_the_same_seed() -> None:
    path = Impairment(loss=0.1)
    first, again = await survivors(path, seed=1), await survivors(path, seed=1)
    other = await survivors(path, seed=2)
    assert first == again != other
    assert 200 < len(first) < 280
    assert first == sorted(first)


async def test_reordering_loses_nothing() -> None:
    got = await survivors(Impairment(reorder=0.2), seed=1)
    assert got != sorted(got) == list(range(300))


async def test_large_datagrams_and_a_black_hole() -> None:
    async with proxied(Impairment(mtu=1200)) as (client, proxy, server):
        for size in (1201, 1200):
            client.port.send(bytes(size), proxy.address)
        await client.until(1)
        assert (proxy.to_server.too_large, proxy.to_server.largest) == (1, 1200)
        proxy.path = Impairment(blackhole=True)
        client.port.send(b"gone", proxy.address)
        await proxy.until_seen(3)
        assert proxy.to_server.lost == 1
        assert server.got == [bytes(1200)]


async def test_a_rate_has_a_queue_that_overflows() -> None:
    path = Impairment(rate=100_000, queue=10_000)
    async with proxied(path) as (client, proxy, server):
        started = asyncio.get_running_loop().time()
        for _ in range(100):
            client.port.send(bytes(1000), proxy.address)
        await proxy.until_seen(100)
        passed = proxy.to_server.passed
        assert 10 <= passed < 100
        assert passed + proxy.to_server.overflowed == 100
        await server.until(passed)
        taken = asyncio.get_running_loop().time() - started
        assert taken >= 0.9 * passed * 1000 / path.rate  # it cannot have been faster


async def test_a_client_that_moves_has_another_address() -> None:
    async with proxied(Impairment()) as (client, proxy, server):
        for count in (1, 2, 3):
            if count == 3:
                proxy.move()
            client.port.send(b"hello", proxy.address)
            await client.until(count)
        assert server.senders[0] == server.senders[1] != server.senders[2]


async def test_one_direction_may_be_mute() -> None:
    async with proxied(Impairment()) as (client, proxy, server):
        proxy.mute(down=True)
        client.port.send(b"heard", proxy.address)
        await proxy.until_answered(1)
        proxy.mute(up=True)
        client.port.send(b"lost", proxy.address)
        await proxy.until_seen(2)
        proxy.mute()
        client.port.send(b"answered", proxy.address)
        await client.until(1)
    assert server.got == [b"heard", b"answered"]
    assert client.got == [b"answered"]


async def test_who_is_severed_comes_through_with_another_connection() -> None:
    initial, short = b"\xc3 a long header", b"\x43 a short one"
    async with proxied(Impairment()) as (client, proxy, server):
        client.port.send(short, proxy.address)
        await client.until(1)
        proxy.sever()
        client.port.send(short, proxy.address)
        await proxy.until_seen(2)
        for data in (initial, short):
            client.port.send(data, proxy.address)
        await client.until(3)
    assert server.got == [short, initial, short]
    assert len(set(server.senders)) == 2

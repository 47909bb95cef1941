"""A receiver that reads nothing stops its sender, costs no memory, and harms nobody else."""

from __future__ import annotations

import asyncio
import select
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping

import pytest

from tests.integration.carriers import ON_BOTH_ENGINES
from tests.integration.peers import CHUNK, MIB, Payload, calling, digest_of
from tests.integration.world import APP, World

pytestmark = pytest.mark.asyncio(loop_scope="session")
CARRIERS = ON_BOTH_ENGINES

OFFERED = 1024 * MIB
"""What the sender would send."""

STOPPED = 1.5
"""Seconds without a byte being taken after which the sender counts as stopped."""

GROWTH = 24 * MIB
"""What relay and agents may grow by, each."""

BUFFERED = 32 * MIB
"""What may lie between sender and receiver: our bounds, and four TCP buffers of the kernel."""

OTHERS = Payload(3, 16 * MIB)


async def test_a_stalled_receiver(own_world: World) -> None:
    world, over = own_world, asyncio.Event()

    async def backend(reader: StreamReader, writer: StreamWriter) -> None:
        if await reader.readexactly(5) == b"stall":
            assert isinstance(writer.transport, asyncio.Transport)
            writer.transport.pause_reading()
            await over.wait()
        else:
            writer.write((await digest_of(reader)).encode())

    async with world.backend.serving(backend):
        await _serve_others(world)
        before = _memory(world)
        with socket.create_connection(world.at[APP]) as sender:
            sender.sendall(b"stall")
            taken = await asyncio.to_thread(_send_until_stopped, sender)
            await _serve_others(world)
            after = _memory(world)
            taken += await asyncio.to_thread(_send_until_stopped, sender)
            over.set()
    growth = {name: (after[name] - before[name]) / MIB for name in before}
    assert MIB < taken < BUFFERED
    assert max(growth.values()) < GROWTH / MIB, growth


def _send_until_stopped(sender: socket.socket) -> int:
    """Bytes that were taken before nothing was taken any more."""
    sender.setblocking(False)
    taken, chunk = 0, bytes(CHUNK)
    while taken < OFFERED and select.select([], [sender], [], STOPPED)[1]:
        taken += sender.send(chunk)
    return taken


async def _serve_others(world: World) -> None:
    """A transfer by the same agents."""
    async with calling(world.at[APP]) as (reader, writer):
        writer.write(b"other")
        await OTHERS.send(writer)
        assert (await reader.read()).decode() == OTHERS.digest


def _memory(world: World) -> Mapping[str, int]:
    programs = {"relay": world.relay, "provider": world.provider, "consumer": world.consumer}
    return {name: program.rss() for name, program in programs.items()}

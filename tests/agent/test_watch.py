"""Noticing that a silent socket's peer aborted."""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from outrelay.agent.sockets import close
from outrelay.agent.watch import AbortWatch
from tests.agent.tcp import Backend, Tcp, connect
from tests.support.turns import everybody_waits

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def watch() -> AsyncIterator[AbortWatch]:
    watch = AbortWatch()
    yield watch
    watch.close()


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Tcp, Tcp]]:
    """Our end of a connection, and the peer's."""
    with Backend() as backend, await connect(backend.port) as ours, await backend.accept() as peer:
        yield ours, peer


async def test_an_abort_ends_the_body(watch: AbortWatch) -> None:
    async with pair() as (ours, peer):
        with pytest.raises(ConnectionResetError), watch.guard(ours.sock):
            peer.reset()
            await asyncio.sleep(60)
        await asyncio.sleep(0)  # and nothing but the body
        with watch.guard(ours.sock):
            pass


async def test_bytes_and_an_end_of_file_are_no_abort(watch: AbortWatch) -> None:
    async with pair() as (ours, peer):
        with watch.guard(ours.sock):
            await peer.send(b"bytes")
            peer.end()
            await everybody_waits()
        assert await ours.read_all() == b"bytes"


async def test_an_rst_behind_an_end_of_file_is_no_abort(watch: AbortWatch) -> None:
    async with pair() as (ours, peer):
        with watch.guard(ours.sock):
            await peer.send(b"all there is")
            close(peer.sock)
            await ours.send(b"too late")
            await everybody_waits()
        assert await ours.read_all() == b"all there is"


async def test_a_released_guard_leaves_the_error_to_whoever_reads(watch: AbortWatch) -> None:
    async with pair() as (ours, peer):
        with watch.guard(ours.sock) as guard:
            guard.release()
            peer.reset()
            await everybody_waits()
        assert await ours.until_reset() == b""


async def test_a_cancelled_body_is_cancelled_whatever_the_peer_did(watch: AbortWatch) -> None:
    async with pair() as (ours, peer):

        async def wait() -> None:
            with watch.guard(ours.sock):
                await asyncio.sleep(60)

        task = asyncio.get_running_loop().create_task(wait())
        await asyncio.sleep(0)
        peer.reset()
        watch._look()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_a_body_that_fails_by_itself_keeps_its_error(watch: AbortWatch) -> None:
    async with pair() as (ours, peer):
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(KeyError), watch.guard(ours.sock):
            peer.reset()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise KeyError from None
        assert task.cancelling() == 0


async def test_several_sockets_are_told_apart(watch: AbortWatch) -> None:
    async with pair() as (first, _), pair() as (second, peer):
        with watch.guard(first.sock), pytest.raises(ConnectionResetError), watch.guard(second.sock):
            peer.reset()
            await asyncio.sleep(60)


async def test_where_there_is_no_epoll_nothing_is_noticed() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(select, "epoll")
        watch = AbortWatch()
    async with pair() as (ours, peer):
        with watch.guard(ours.sock):
            peer.reset()
            await everybody_waits()
        assert await ours.until_reset() == b""
    watch.close()

"""The key that quits, at a terminal and elsewhere."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import termios
from collections.abc import Iterator

import pytest

from outrelay.cli.watch.keys import quitting
from tests.support.patience import PATIENCE

pytestmark = pytest.mark.both_loops


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What is written here is typed at the terminal that is standard input."""
    keys, terminal = os.openpty()
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield keys
    os.close(keys)


@pytest.mark.parametrize("key", [b"q", b"Q", b"\x1b", b"xxq"])
async def test_a_key_quits_without_return(keyboard: int, key: bytes) -> None:
    stop = asyncio.Event()
    with quitting(stop):
        os.write(keyboard, key)
        async with asyncio.timeout(PATIENCE):
            await stop.wait()


async def test_the_terminal_is_as_it_was_before(keyboard: int) -> None:
    before = termios.tcgetattr(sys.stdin.fileno())
    with quitting(asyncio.Event()):
        assert termios.tcgetattr(sys.stdin.fileno()) != before
    assert termios.tcgetattr(sys.stdin.fileno()) == before


async def test_another_key_is_nothing(keyboard: int) -> None:
    stop = asyncio.Event()
    with quitting(stop):
        os.write(keyboard, b"x")
        await asyncio.sleep(0)
        assert not stop.is_set()
        os.write(keyboard, b"q")
        async with asyncio.timeout(PATIENCE):
            await stop.wait()


async def test_where_there_is_no_terminal_nobody_quits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("q"))
    stop = asyncio.Event()
    with quitting(stop):
        await asyncio.sleep(0)
        assert not stop.is_set()

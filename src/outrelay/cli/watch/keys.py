"""The key that ends a screen, without waiting for Return."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

QUIT = frozenset(b"qQ\x1b\x04")
"""q, Escape, Ctrl-D."""


@contextmanager
def quitting(stop: asyncio.Event) -> Iterator[None]:
    """Set ``stop`` when somebody wants to quit; where standard input is no terminal nobody can."""
    if not sys.stdin.isatty():
        yield
        return
    terminal, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(terminal)

    def on_key() -> None:
        keys = os.read(terminal, 64)
        if not keys or not QUIT.isdisjoint(keys):
            loop.remove_reader(terminal)
            stop.set()

    tty.setcbreak(terminal)
    loop.add_reader(terminal, on_key)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)

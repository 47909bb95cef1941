"""Ports that stay free until somebody listens there on purpose."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress

NEVER_CHOSEN = range(20_000, 30_000)
"""None of these is given to who asks the system for any, on systems as they come."""


def unused_port() -> int:
    """A port of 127.0.0.1 where nobody listens, and that the system gives nobody.

    Who tries to connect there is refused, and whoever listens there can come back to it: a
    port that the system may choose goes to the next who asks, in whichever process.
    """
    while True:
        port = random.choice(NEVER_CHOSEN)
        with suppress(OSError), ExitStack() as sockets:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                sock = sockets.enter_context(socket.socket(socket.AF_INET, kind))
                sock.bind(("127.0.0.1", port))
            return port

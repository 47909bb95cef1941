"""The bridge between a TCP socket and a carrier's stream, byte for byte, both ways.

Words: *upload* is from the socket to the stream, *download* back; the *application* is
whoever has the other end of the socket, on the provider's side the backend.

Invariants:

- Each direction holds one chunk at a time and waits for whoever takes it: a reader that
  stops makes the far writer wait.
- Each direction ends by itself: an end of file becomes FIN, a FIN becomes a shutdown, and
  the other direction goes on.
- Whatever else ends a direction is raised, and what was cut off never ends as if it were
  complete. A far reader that stops, and an application that ended its direction before it
  left, end one direction only: the other one may still be whole.

Source: protocol.md sections 1 and 5; architecture.md, a byte's way.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio import TaskGroup
from collections.abc import Callable
from dataclasses import dataclass

from outrelay.agent.watch import AbortWatch, Guard
from outrelay.lib.errors import ErrorCode, Reset
from outrelay.lib.tasks import spawn
from outrelay.lib.transport.carrier import READ_SIZE, Stream

CHUNK = 256 * 1024
"""Bytes taken from the socket at once: on tcp each costs a turn of every loop on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Who is told of what a bridge does.

    Args:
        fin: Called when a direction has come to its end.
        sent: Told the number of bytes each time the stream took some.
        received: Told the number of bytes each time the socket took some.
    """

    fin: Callable[[], None]
    sent: Callable[[int], None]
    received: Callable[[int], None]


class Bridge:
    """Joins ``sock`` and ``stream``.

    Args:
        sock: Connected and non-blocking; closed by the caller.
        stream: The carrier's; what the bridge leaves open the caller abandons.
        watch: Notices when the application aborts.
        held: What was read from the stream before.
        counts: Told what happens.
    """

    __slots__ = (
        *("_counts", "_failure", "_held", "_socket", "_stream", "_watch"),
        *("finished", "received", "sent"),
    )

    def __init__(
        self,
        sock: socket.socket,
        stream: Stream,
        watch: AbortWatch,
        held: bytes,
        counts: Counts,
    ) -> None:
        self._socket = sock
        self._stream = stream
        self._watch = watch
        self._held = held
        self._counts = counts
        self._failure: Reset | OSError | None = None
        self.sent = 0
        """Bytes of the application that the stream has taken."""
        self.received = 0
        """Bytes of the stream that the application has taken."""
        self.finished = False
        """Whether the upload has ended by FIN."""

    async def run(self) -> None:
        """Pass bytes until both directions have ended and the peer has everything.

        Raises:
            Reset: The peer abandoned a direction.
            Closed: The connection is gone.
            OSError: The application did, or its socket broke.
        """
        try:
            with self._watch.guard(self._socket) as guard:
                async with TaskGroup() as group:
                    spawn(group, self._upload(guard), name="agent: upload")
                    await self._download(guard)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        if self.finished:
            await self._stream.wait_finished()
        if self._failure:
            raise self._failure

    def abandon(self, code: ErrorCode) -> None:
        """End what has not ended: both directions, or only the peer's when ours has FIN."""
        if not self.finished:
            self._stream.reset(code)
        self._stream.stop(code)

    async def _upload(self, guard: Guard) -> None:
        receive, sock, write = (
            asyncio.get_running_loop().sock_recv,
            self._socket,
            self._stream.write,
        )
        try:
            while data := await receive(sock, CHUNK):
                await write(data)
                self.sent += len(data)
                self._counts.sent(len(data))
        except Reset as stopped:
            self._failure = stopped
            return
        # The kernel tells of an RST once. Where the watch or a send was told, a read finds what
        # looks like an end: whoever was told ends us here.
        await asyncio.sleep(0)
        guard.check()
        self._stream.finish()
        self.finished = True
        self._counts.fin()

    async def _download(self, guard: Guard) -> None:
        send, sock, read = asyncio.get_running_loop().sock_sendall, self._socket, self._stream.read
        data, self._held = self._held or await read(READ_SIZE), b""
        while data:
            try:
                await send(sock, data)
            except BrokenPipeError as gone:  # ECONNRESET where it had not ended its direction
                self._stream.stop(ErrorCode.CANCELLED)
                self._failure = gone
                return
            self.received += len(data)
            self._counts.received(len(data))
            data = await read(READ_SIZE)
        guard.release()
        sock.shutdown(socket.SHUT_WR)
        self._counts.fin()

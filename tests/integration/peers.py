"""What stands around OutRelay in these tests: the backend and the applications.

The backend does what the test's *handler* says, for every connection that comes while it
says it; what the handler raises fails the test.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from outrelay.lib.values import Address
from tests.support import ports

MIB = 1 << 20
CHUNK = 256 * 1024

Handler = Callable[[StreamReader, StreamWriter], Awaitable[None]]


class Backend:
    """A server whose connections the current test serves."""

    def __init__(self) -> None:
        self.address: Address = ("", 0)
        self.calls = 0
        """Connections so far, whoever served them."""
        self._handler: Handler | None = None
        self._running: set[asyncio.Task[None]] = set()
        """Those under way, and those whose handler raised something."""

    @classmethod
    @asynccontextmanager
    async def start(cls, sock: socket.socket | None = None) -> AsyncIterator[Backend]:
        """A backend that listens, for the length of the ``with``; on loopback, or on ``sock``."""
        backend = cls()
        sock = sock or socket.create_server(("127.0.0.1", 0))
        server = await asyncio.start_server(backend._serve, sock=sock, backlog=256)
        backend.address = server.sockets[0].getsockname()
        async with server:
            yield backend

    @asynccontextmanager
    async def serving(self, handler: Handler, patience: float = 10) -> AsyncIterator[None]:
        """Serve connections by ``handler``; at the end, wait for those that came.

        Args:
            handler: Serves one.
            patience: Seconds to wait.

        Raises:
            Exception: What a handler raised.
        """
        self._handler = handler
        try:
            yield
        finally:
            self._handler = None
            running, self._running = self._running, set()
        async with asyncio.timeout(patience):
            await asyncio.gather(*running)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.calls += 1
        task = asyncio.current_task()
        assert task is not None
        if self._handler is None:  # a doctor, or a try that was under way when the last test ended
            writer.close()
            return
        self._running.add(task)
        try:
            await self._handler(reader, writer)
            self._running.discard(task)
        finally:
            writer.close()


@asynccontextmanager
async def calling(address: Address) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    """An application's connection, closed after the ``with``."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer_to(address: Address, request: bytes = b"?") -> bytes:
    """What an application gets that sends ``request`` and its end, until the end comes back.

    Raises:
        ConnectionError: The connection was refused or reset.
    """
    async with calling(address) as (reader, writer):
        writer.write(request)
        with suppress(OSError):  # a connection that is gone already; the read tells how
            writer.write_eof()
        return await reader.read()


async def abort(writer: StreamWriter) -> None:
    """Abandon a connection: its peer gets an RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


# ---- payload -------------------------------------------------------------------------------


class Payload:
    """Bytes that only their seed and their size tell; never all in memory at once.

    Args:
        seed: Makes it another payload.
        size: Bytes, a multiple of ``CHUNK``.
    """

    def __init__(self, seed: int, size: int) -> None:
        assert size % CHUNK == 0
        self.size = size
        self._chunk = random.Random(seed).randbytes(CHUNK - 8)

    async def send(self, writer: StreamWriter) -> None:
        """Write all of it, and the end."""
        for number in range(self.size // CHUNK):
            writer.write(number.to_bytes(8, "big") + self._chunk)
            await writer.drain()
        writer.write_eof()

    @property
    def digest(self) -> str:
        """Its hash."""
        digest = hashlib.sha256()
        for number in range(self.size // CHUNK):
            digest.update(number.to_bytes(8, "big") + self._chunk)
        return digest.hexdigest()


async def digest_of(reader: StreamReader) -> str:
    """The hash of everything until the end."""
    digest = hashlib.sha256()
    while data := await reader.read(CHUNK):
        digest.update(data)
    return digest.hexdigest()


# ---- handlers ------------------------------------------------------------------------------


async def echo(reader: StreamReader, writer: StreamWriter) -> None:
    """Send everything back, then the end."""
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def echo_until_cut(reader: StreamReader, writer: StreamWriter) -> None:
    """Send everything back, until the connection ends or is reset."""
    with suppress(ConnectionResetError):
        await echo(reader, writer)


async def ping(reader: StreamReader, writer: StreamWriter) -> None:
    """Fail unless an echo answers."""
    writer.write(b"ping")
    assert await reader.readexactly(4) == b"ping"


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"you asked for {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@contextmanager
def web_server() -> Iterator[Address]:
    """A web server that says what was asked for; where it listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield "127.0.0.1", server.server_port
        finally:
            server.shutdown()
            thread.join()


def unused_port() -> Address:
    """An address where nobody listens; whoever does can come back to it."""
    return "127.0.0.1", ports.unused_port()

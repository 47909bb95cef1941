"""A TCP path in a test's hands: it passes bytes on, late or not at all.

    async with TcpPath(server_address, delay=0.02) as path:
        ... talk to path.address ...
        path.cut()

A path that is cut, or mute in one direction, reads nothing there and ends nothing: who listens
finds silence. What was on its way arrives when the path speaks again. A path that is severed
resets the connections there are, and takes others.
"""

from __future__ import annotations

import asyncio
from asyncio import TaskGroup
from types import TracebackType
from typing import Self

Address = tuple[str, int]

CHUNK = 64 * 1024


class TcpPath:
    """Leads to one server.

    Args:
        server: Where to.
        delay: Seconds, each way.
    """

    def __init__(self, server: Address, *, delay: float = 0.0) -> None:
        self._server = server
        self._delay = delay
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self.mute()
        self._tasks: set[asyncio.Task[None]] = set()
        self.passed = 0
        """Bytes, both ways."""

    @property
    def address(self) -> Address:
        """Where clients find the path."""
        host, port = self._listener.sockets[0].getsockname()[:2]
        return host, port

    def cut(self) -> None:
        """Let no byte pass any more."""
        self.mute(up=True, down=True)

    def mute(self, *, up: bool = False, down: bool = False) -> None:
        """Let nothing pass that clients send (``up``), or the server (``down``); all else."""
        for open_way, is_mute in ((self._up, up), (self._down, down)):
            if is_mute:
                open_way.clear()
            else:
                open_way.set()

    def sever(self) -> None:
        """Reset the connections there are, as a client's new address does."""
        for task in self._tasks:
            task.cancel()

    move = sever

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            there, back = await asyncio.open_connection(*self._server)
        except OSError:
            writer.transport.abort()
            return
        try:
            async with TaskGroup() as group:
                group.create_task(self._pass(reader, back, self._up), name="path: up")
                group.create_task(self._pass(there, writer, self._down), name="path: down")
        finally:
            for each in (writer, back):
                each.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: asyncio.Event
    ) -> None:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        async with TaskGroup() as group:
            group.create_task(self._deliver(queue, writer, way), name="path: delay")
            while data := await self._read(reader, way):
                queue.put_nowait((loop.time() + self._delay, data))
            queue.put_nowait((loop.time() + self._delay, b""))

    async def _read(self, reader: asyncio.StreamReader, way: asyncio.Event) -> bytes:
        await way.wait()
        try:
            data = await reader.read(CHUNK)
        except ConnectionError:
            data = b""
        await way.wait()
        return data

    async def _deliver(
        self,
        queue: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        way: asyncio.Event,
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            when, data = await queue.get()
            await asyncio.sleep(when - loop.time())
            await way.wait()
            try:
                if not data:
                    writer.write_eof()
                    return
                self.passed += len(data)
                writer.write(data)
                await writer.drain()
            except (ConnectionError, OSError):
                pass  # the other direction tells

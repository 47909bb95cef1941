"""An HTTP proxy that knows CONNECT alone.

async with HttpProxy(authorization="Basic ...") as proxy:
    ... http://127.0.0.1:<proxy.address[1]> ...
    assert proxy.asked == ["relay.test:443"]
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from tests.support.serving import Address, serving, splice


class HttpProxy:
    """Leads wherever it is asked to.

    Args:
        authorization: What Proxy-Authorization must say; empty: nothing.
        names: Where targets lead that no resolver knows, by host:port.
        refuses: Answers every request with this status instead.
    """

    address: Address
    """Where it listens."""

    def __init__(
        self,
        *,
        authorization: str = "",
        names: Mapping[str, Address] | None = None,
        refuses: str = "",
    ) -> None:
        self._authorization = authorization
        self._names = names or {}
        self._refuses = refuses
        self._stack = AsyncExitStack()
        self.asked: list[str] = []
        """The targets of the requests, as they were written."""

    async def __aenter__(self) -> Self:
        self.address = await self._stack.enter_async_context(serving(self._serve))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await loop.sock_recv(sock, 1)
        request, *headers = head.decode().split("\r\n")
        method, target, _ = request.split(" ")
        self.asked.append(target)
        said = dict(line.split(": ", 1) for line in headers if line)
        fault = self._fault(method, said.get("Proxy-Authorization", ""))
        if fault:
            answer = f"HTTP/1.1 {fault}\r\nContent-Length: 0\r\n\r\n"
            await loop.sock_sendall(sock, answer.encode())
            return
        with socket.socket() as far:
            far.setblocking(False)
            await loop.sock_connect(far, self._find(target))
            await loop.sock_sendall(sock, b"HTTP/1.1 200 Connection established\r\n\r\n")
            await splice(sock, far)

    def _fault(self, method: str, authorization: str) -> str:
        if method != "CONNECT":
            return "405 Method Not Allowed"
        if authorization != self._authorization:
            return "407 Proxy Authentication Required"
        return self._refuses

    def _find(self, target: str) -> Address:
        host, _, port = target.rpartition(":")
        return self._names.get(target, (host, int(port)))

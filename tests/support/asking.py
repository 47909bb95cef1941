"""Asks a debug listener, as curl would: bytes out, bytes in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from outrelay.lib.values import Address, address_text
from tests.support.patience import PATIENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


async def ask(
    address: Address, path: str, *, host: str = "", method: str = "GET", **headers: str
) -> Answer:
    """The answer to one request on a connection of its own.

    Args:
        address: Of the listener.
        path: What to ask for.
        host: The Host header; empty: the address.
        method: Of the request.
        headers: Further ones.
    """
    lines = {"Host": host or address_text(address), "Connection": "close", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return parsed(await talk(address, f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode()))


async def talk(address: Address, data: bytes) -> bytes:
    """Everything that comes back for ``data``, until the listener closes the connection."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(data)
            return await reader.read()
        finally:
            writer.close()


def parsed(data: bytes) -> Answer:
    head, _, body = data.decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return Answer(status=int(first.split()[1]), headers=headers, text=body)

"""Cuts what a yamux peer sends into frames, however it was cut on its way.

Payload is passed on as it comes, in parts that are views of what was fed: nothing is kept of
it here, and nothing copied. All that is ever kept is the beginning of a header.

Source: protocol.md section 9.
"""

from __future__ import annotations

from typing import Protocol

from outrelay.lib.errors import RemoteProtocolError
from outrelay.lib.transport.tcp.yamux_frames import DATA, HEADER, HEADER_SIZE


class Sink(Protocol):
    """Who takes the frames. What it raises ends the parsing."""

    def frame(self, kind: int, flags: int, number: int, length: int) -> None:
        """A frame begins; it is complete unless it is data."""

    def payload(self, part: memoryview) -> None:
        """The next part of a data frame: a view that is good until ``feed`` returns."""

    def complete(self) -> None:
        """A data frame is complete."""


class Parser:
    """Parses one session.

    Args:
        sink: Gets the frames.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._head = b""
        self.left = 0
        """Bytes of the data frame that has begun to come."""
        self.is_stopped = False
        """Whether the rest is dropped; set by whoever has heard enough."""

    def feed(self, data: memoryview) -> None:
        """Take what the peer sent.

        Raises:
            RemoteProtocolError: It is no frame of yamux, or the sink said so.
        """
        at, end = 0, len(data)
        while at < end and not self.is_stopped:
            if self.left:
                part = data[at : at + self.left]
                at += len(part)
                self._payload(part)
            elif not self._head and end - at >= HEADER_SIZE:
                fields = HEADER.unpack_from(data, at)
                at += HEADER_SIZE
                self._begin(*fields)
            else:
                part = data[at : at + HEADER_SIZE - len(self._head)]
                at += len(part)
                self._head += bytes(part)
                if len(self._head) == HEADER_SIZE:
                    fields, self._head = HEADER.unpack(self._head), b""
                    self._begin(*fields)

    def _begin(self, version: int, kind: int, flags: int, number: int, length: int) -> None:
        if version != 0:
            raise RemoteProtocolError(f"yamux of version {version}, not 0")
        self._sink.frame(kind, flags, number, length)
        if kind == DATA:
            self.left = length
            if not length:
                self._sink.complete()

    def _payload(self, part: memoryview) -> None:
        self.left -= len(part)
        self._sink.payload(part)
        if not self.left:
            self._sink.complete()

"""A small HTTP server for questions: GET and HEAD over HTTP/1, parsed by h11.

Words: a *desk* answers requests, one after the other and at once. What it answers is made in
memory, so that a connection never waits for anybody but its peer.

Invariants: connections are bounded, and when there are too many the oldest gives way, so that a
probe always gets its answer. What a connection holds is bounded: the head of one request, and
answers up to the transport's high-water mark. One that does not bring a whole request within
``IDLE`` seconds, or does not take an answer, is cut.

Source: RFC 9112.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from socket import socket
from typing import cast
from urllib.parse import parse_qsl, urlsplit

import h11

MOST_CONNECTIONS = 64
BACKLOG = 16
IDLE = 60.0
"""Seconds that a connection may take for a request, or for an answer."""
LONGEST_HEAD = 16 * 1024
"""Bytes of a request's line and headers."""
FAREWELL = 0.5
"""Seconds that answers have to be taken when the server is closed."""

_READ_ONLY = ("GET", "HEAD")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody asks for.

    Args:
        path: Of the target.
        query: The rest of it, by name; of several of a name the last.
        hosts: The Host headers.
        accepted: The Accept header; empty: none.
    """

    path: str
    query: Mapping[str, str]
    hosts: Sequence[str]
    accepted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is said to it.

    Args:
        body: What it is.
        media_type: What that is.
        status: As HTTP has it.
        headers: More of them.
    """

    body: bytes
    media_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Desk = Callable[[Request], Answer]


def text_answer(text: str, *, status: int = 200, **headers: str) -> Answer:
    """A line or some, for people."""
    return Answer(body=f"{text}\n".encode(), status=status, headers=headers)


@asynccontextmanager
async def serve(sock: socket, desk: Desk, *, name: str) -> AsyncIterator[None]:
    """Answer who connects to ``sock`` for the time of the body; it is closed in the end.

    Args:
        sock: Bound.
        desk: What answers; it must not raise.
        name: Of the server, as its answers have it.
    """
    present = _Present()
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(
        lambda: _Connection(desk, name, present), sock=sock, backlog=BACKLOG
    )
    try:
        yield
    finally:
        listener.close()
        await present.leave()


class _Present:
    """The connections there are, the oldest first."""

    def __init__(self) -> None:
        self._transports: dict[asyncio.Transport, None] = {}
        self._none = asyncio.Event()
        self._none.set()

    def add(self, transport: asyncio.Transport) -> None:
        """One more; the oldest makes room for it."""
        alive = [each for each in self._transports if not each.is_closing()]
        if len(alive) >= MOST_CONNECTIONS:
            alive[0].abort()
        self._transports[transport] = None
        self._none.clear()

    def remove(self, transport: asyncio.Transport) -> None:
        """One is gone."""
        del self._transports[transport]
        if not self._transports:
            self._none.set()

    async def leave(self) -> None:
        """Close all of them, once their peers have what was answered."""
        for each in [*self._transports]:
            each.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self._none.wait()
        for each in [*self._transports]:
            each.abort()
        await self._none.wait()


class _Connection(asyncio.Protocol):
    """One of them."""

    def __init__(self, desk: Desk, name: str, present: _Present) -> None:
        self._desk = desk
        self._name = name
        self._present = present
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST_HEAD)
        self._is_full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has another ancestry
        self._present.add(self._transport)
        self._timer = asyncio.get_running_loop().call_later(IDLE, self._transport.abort)

    def connection_lost(self, _error: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._timer.cancel()
        self._present.remove(self._transport)

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        self._http.receive_data(data)
        self._answer_all()

    def eof_received(self) -> None:
        """See ``asyncio.Protocol``: what was answered is still sent."""
        self.data_received(b"")

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``: who does not take answers may ask no more."""
        self._is_full = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._is_full = False
        self._transport.resume_reading()
        self._answer_all()

    def _answer_all(self) -> None:
        """Answer what has come whole."""
        try:
            while not self._is_full and not self._transport.is_closing():
                match self._http.next_event():
                    case h11.Request() as request:
                        is_whole = isinstance(self._http.next_event(), h11.EndOfMessage)
                        self._send(request.method, self._answer(request), is_last=not is_whole)
                    case h11.PAUSED:
                        self._http.start_next_cycle()
                    case h11.NEED_DATA:
                        return
                    case h11.ConnectionClosed():
                        self._transport.close()
        except h11.RemoteProtocolError as error:
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                refusal = text_answer(str(error), status=error.error_status_hint)
                self._send(b"GET", refusal, is_last=True)
            self._transport.close()

    def _answer(self, request: h11.Request) -> Answer:
        if request.method.decode() not in _READ_ONLY:
            return text_answer("only GET and HEAD", status=405, Allow="GET, HEAD")
        try:
            target = urlsplit(request.target.decode())
            query = dict(parse_qsl(target.query, keep_blank_values=True, max_num_fields=16))
        except ValueError:
            return text_answer("the target is none", status=400)
        headers = [(name, value.decode("latin-1")) for name, value in request.headers]
        asked = Request(
            path=target.path,
            query=query,
            hosts=[value for name, value in headers if name == b"host"],
            accepted=", ".join(value for name, value in headers if name == b"accept"),
        )
        return self._desk(asked)

    def _send(self, method: bytes, answer: Answer, *, is_last: bool) -> None:
        """Send an answer."""
        headers = {
            "Content-Type": answer.media_type,
            "Content-Length": str(len(answer.body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Date": formatdate(usegmt=True),
            "Server": self._name,
            **answer.headers,
        }
        body = b"" if method == b"HEAD" else answer.body
        head = h11.Response(status_code=answer.status, headers=[*headers.items()])
        events: list[h11.Event] = [head, h11.Data(data=body), h11.EndOfMessage()]
        self._transport.write(b"".join(self._http.send(each) or b"" for each in events))
        self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(IDLE, self._transport.abort)
        if is_last or self._http.our_state is h11.MUST_CLOSE:
            self._transport.close()

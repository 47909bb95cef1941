"""From a new socket to a TLS layer whose peer is known.

Words: a *stage* is a conversation that must come to its end before the next one begins: a
proxy's CONNECT, then the TLS handshake. It has no socket; an *opening* moves its bytes. An
opening is *over* when all stages are done and the socket is somebody else's, or when one has
failed, the peer has heard why, and the socket is closed.

Invariants: an opening is over within its limit and ``LINGER``, and says so once. A socket
closed with bytes unread takes back what was sent before, so the peer gets that long to read
why it is refused.

Source: protocol.md section 1.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from outrelay.lib.errors import ErrorCode
from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.refusal import Cause
from outrelay.lib.transport.tcp.tls import HandshakeFailed, TlsLayer
from outrelay.lib.transport.tcp.yamux_frames import farewell

LINGER = 1.0
"""Seconds a refused peer has to read why."""

READ_SIZE = 16 * 1024


class Stage(Protocol):
    """One conversation, without a socket."""

    def receive(self, data: bytes) -> None:
        """Take what has arrived."""

    def advance(self) -> bool:
        """Go on with what there is; whether it has come to its end.

        Raises:
            HandshakeFailed: It will not.
        """

    def take(self) -> bytes:
        """What is to be sent; empty when there is nothing."""


class Opening:
    """Brings one socket through its stages; ``begin`` or ``connect`` starts it.

    Args:
        sock: Prepared; the opening's own until it is over.
        tls: The last stage.
        before: What comes before it.
        limit: Seconds all of it may take.
        on_over: Told how it went: None, or why there is no connection.
    """

    def __init__(
        self,
        sock: socket.socket,
        tls: TlsLayer,
        *,
        before: Stage | None = None,
        limit: float,
        on_over: Callable[[Opening, HandshakeFailed | None], None],
    ) -> None:
        self.sock = sock
        self.tls = tls
        self.has_begun = False
        """Whether the socket was connected: the peer knows of us."""
        self._stages: list[Stage] = [tls] if before is None else [before, tls]
        self._on_over = on_over
        self._unsent = b""
        self._failure: HandshakeFailed | None = None
        self._over = False
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(limit, self._too_late)

    def connect(self, address: Address) -> None:
        """Connect the socket to a numeric address, then begin."""
        error = self.sock.connect_ex(address)
        if error in (0, errno.EINPROGRESS):
            self._loop.add_writer(self.sock, self._connected)
        else:
            self._timer.cancel()
            self._timer = self._loop.call_later(0, self._unreached, os.strerror(error))

    def begin(self) -> None:
        """Begin on a socket that is connected."""
        self.has_begun = True
        self._loop.add_reader(self.sock, self._readable)
        self._go_on()

    def close(self) -> None:
        """Give up at once, without a word to anybody; does nothing once it is over."""
        if not self._over:
            self._let_go()
            self.sock.close()

    def _connected(self) -> None:
        self._loop.remove_writer(self.sock)
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._unreached(os.strerror(error))
        else:
            self.begin()

    def _readable(self) -> None:
        try:
            data = self.sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._broken(error.strerror or str(error))
            return
        if self._failure is not None:  # nothing it says counts any more
            if not data:
                self._finish()
        elif data:
            self._stages[0].receive(data)
            self._go_on()
        else:
            self._broken("the connection was closed in the handshake")

    def _go_on(self) -> None:
        """Take the stages as far as they get with what has arrived."""
        try:
            while self._stages:
                done = self._stages[0].advance()
                self._send(self._stages[0].take())
                if not done:
                    return
                del self._stages[0]
        except HandshakeFailed as failure:
            self._fail(failure)
        else:
            self._writable()

    def _send(self, data: bytes) -> None:
        self._unsent += data
        with suppress(BlockingIOError, InterruptedError, OSError):  # reading tells what is wrong
            while self._unsent:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
        if self._unsent:
            self._loop.add_writer(self.sock, self._writable)

    def _writable(self) -> None:
        """Send the rest; when it is the last, the opening is over or goes to its end."""
        self._loop.remove_writer(self.sock)
        self._send(b"")
        if self._unsent:
            return
        if self._failure is not None:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
        elif not self._stages:
            self._let_go()
            self._on_over(self, None)

    def _fail(self, failure: HandshakeFailed) -> None:
        """Refuse the peer, or take its refusal."""
        self._failure = failure
        if not failure.told:
            self.tls.write(farewell(ErrorCode.DENIED, failure.reason))
            self.tls.end()
        parting = self._stages[0].take()
        if not parting:
            self._finish()
            return
        self._timer.cancel()
        self._timer = self._loop.call_later(LINGER, self._finish)
        self._send(parting)
        self._writable()

    def _broken(self, reason: str) -> None:
        """Nobody is there to be told anything."""
        cause = Cause.HANDSHAKE if self._stages[:1] == [self.tls] else Cause.PROXY
        self._failure = self._failure or HandshakeFailed(cause, reason)
        self._finish()

    def _unreached(self, reason: str) -> None:
        self._failure = HandshakeFailed(Cause.UNREACHABLE, reason)
        self._finish()

    def _too_late(self) -> None:
        self._failure = HandshakeFailed(Cause.TIMEOUT, "the handshake was not over in time")
        self._finish()

    def _finish(self) -> None:
        """Close the socket of an opening that has failed."""
        self.close()
        self._on_over(self, self._failure)

    def _let_go(self) -> None:
        self._over = True
        self._timer.cancel()
        self._loop.remove_reader(self.sock)
        self._loop.remove_writer(self.sock)

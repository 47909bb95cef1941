"""A connected socket and its TLS layer: plaintext in and out, by callbacks of the event loop.

There is no task: a callback reads what is there, up to ``CIPHERTEXT``, and hands all of it on; what
is sent is encrypted at once, and waits here when the socket takes no more. Large chunks are
what makes it fast: each costs one turn of the loop, whatever its size.

Words: a link is *full* when ``FULL`` bytes of ciphertext wait, until ``ROOM`` are left. It
*parts* when nothing more will be sent: its end goes out behind what waits, then it reads and
drops until the peer's end, for a socket closed with bytes unread takes back what was sent.

Invariants: reading never stops while the owner lives; after ``on_gone`` the socket is closed
and nothing is called any more.
"""

from __future__ import annotations

import asyncio
import socket
import termios
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from fcntl import ioctl
from itertools import islice
from typing import Protocol

from outrelay.lib.errors import Closed
from outrelay.lib.transport.tcp.tls import TlsLayer, records, sealed

CHUNK = 256 * 1024
"""Bytes of plaintext taken at once."""

CIPHERTEXT = sealed(CHUNK)
"""Bytes read from the socket at once, beside the rest of what has begun to come: what a peer of
ours sends at once, no record cut. So what it sent at once is handed on at once."""

FULL = 512 * 1024
ROOM = 128 * 1024

LINGER = 1.0
"""Seconds a parting peer has to take what was sent, and again to end, too."""

BATCH = 16
"""Buffers handed to the kernel at once."""

_NO_MMAP = 16 << 20


class _Buffers(threading.local):
    """Where ciphertext arrives and plaintext appears: used within one callback only.

    Making them, a large block is allocated and freed: glibc's allocator serves blocks of such
    sizes from its heap then, instead of mapping memory for each buffer of a connection and
    giving it back. Throughput doubles.
    """

    def __init__(self) -> None:
        large = bytearray(_NO_MMAP)
        del large
        self.ciphertext = memoryview(bytearray(2 * CIPHERTEXT))
        self.plaintext = memoryview(bytearray(CHUNK))


_buffers = _Buffers()


class Owner(Protocol):
    """Whose link it is."""

    @property
    def missing(self) -> int:
        """Bytes of plaintext that belong to what has begun to come."""

    def received(self, data: memoryview) -> None:
        """Take plaintext; the buffer is used again afterwards."""

    def drained(self) -> None:
        """What was received so far was handed over; or there is room again."""

    def lost(self, closed: Closed) -> None:
        """The peer says nothing more."""

    def parted(self) -> None:
        """What was sent is on its way, or never will be."""

    def gone(self) -> None:
        """The socket is closed."""


class Link:
    """See the module.

    Args:
        sock: Connected and non-blocking; the link closes it.
        tls: Its handshake is done.
        owner: Told what happens.
    """

    def __init__(self, sock: socket.socket, tls: TlsLayer, owner: Owner) -> None:
        self._socket = sock
        self._tls = tls
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._queue: deque[memoryview] = deque()
        self._waiting = 0
        self._handed_over = 0
        self._is_parting = False
        self._is_lost = False
        self._is_gone = False
        self._timer: asyncio.TimerHandle | None = None
        self.full = False
        self._loop.add_reader(sock, self._readable)
        self._loop.call_soon(self._decrypt)  # the handshake's last packet may hold more

    @property
    def sent(self) -> int:
        """Bytes of ciphertext sent, or waiting to be."""
        return self._handed_over + self._waiting

    @property
    def acknowledged(self) -> int:
        """Bytes of these that the peer's kernel has acknowledged."""
        if self._is_gone:
            return self._handed_over
        queued = ioctl(self._socket, termios.TIOCOUTQ, b"\0\0\0\0")
        return self._handed_over - int.from_bytes(queued, "little")

    # Receiving

    def _readable(self) -> None:
        buffer = _buffers.ciphertext
        try:
            size = self._socket.recv_into(buffer, self._wanted())
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(Closed(reason=error.strerror or str(error), lost=True))
            return
        if not size:
            self._lose(Closed(reason="the peer is gone", lost=True))
        elif not self._is_lost:
            self._tls.receive(buffer[:size])
            self._decrypt()

    def _wanted(self) -> int:
        """Bytes to read from the socket at once."""
        missing = self._owner.missing
        rest = sealed(missing) - self._tls.undecrypted if missing else 0
        return min(CIPHERTEXT + max(0, rest), 2 * CIPHERTEXT)

    def _decrypt(self) -> None:
        tls, buffer = self._tls, _buffers.plaintext
        if self._is_lost:
            return
        try:
            while size := tls.read_into(buffer):
                self._owner.received(buffer[:size])
        except Closed as closed:
            self._lose(closed)
            return
        if tls.ended:
            self._lose(Closed(by_peer=True))
        else:
            self._owner.drained()

    def _lose(self, closed: Closed) -> None:
        """The peer says nothing more; with ``lost``, and at the end of a parting, it is gone."""
        if not self._is_lost:
            self._is_lost = True
            self._owner.lost(closed)
        if closed.lost:
            self.abort()

    # Sending

    def send(self, parts: Sequence[bytes | memoryview]) -> None:
        """Encrypt and send ``parts``, one behind the other; lost when the link parts."""
        if not self._is_parting:
            for data in records(parts):
                self._tls.write(data)
            self._transmit()

    def _transmit(self) -> None:
        """Send what TLS has to send, as far as the socket takes it."""
        data = memoryview(self._tls.take())
        if self._is_gone or not data:
            return
        if not self._queue:
            size = self._hand_over([data])
            if size == len(data):
                return
            data = data[size:]
            self._loop.add_writer(self._socket, self._writable)
        self._queue.append(data)
        self._waiting += len(data)
        self.full = self.full or self._waiting >= FULL

    def _hand_over(self, buffers: list[memoryview]) -> int:
        """How much of ``buffers`` the socket takes now."""
        try:
            size = self._socket.sendmsg(buffers)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:  # reading tells how it ended, after what the peer said before
            self._waiting = 0
            self._queue.clear()
            return sum(map(len, buffers))
        self._handed_over += size
        return size

    def _writable(self) -> None:
        size = self._hand_over(list(islice(self._queue, BATCH)))
        while self._queue and size >= len(self._queue[0]):
            part = len(self._queue.popleft())
            size -= part
            self._waiting -= part
        if self._queue:
            self._queue[0] = self._queue[0][size:]
            self._waiting -= size
        else:
            self._loop.remove_writer(self._socket)
        if self.full and self._waiting <= ROOM:
            self.full = False
            self._owner.drained()
        if self._is_parting and not self._queue:
            self._shut()

    # The end

    def part(self) -> None:
        """Send what waits, then the end; idempotent."""
        if self._is_parting or self._is_gone:
            return
        self._is_parting = True
        self._tls.end()
        self._transmit()
        self._timer = self._loop.call_later(LINGER, self.abort)
        if not self._queue:
            self._shut()

    def _shut(self) -> None:
        """Everything is on its way: wait for the peer's end."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self._owner.parted()

    def abort(self) -> None:
        """Close the socket now; idempotent."""
        if self._is_gone:
            return
        self._is_gone = self._is_parting = self._is_lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._owner.parted()
        self._owner.gone()

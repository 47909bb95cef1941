"""The load: a backend that serves it and a client that makes it, on plain blocking sockets.

Both run as processes of their own (``python -m outrelay.tools.bench.load``), so that they
disturb what is measured as little as they can. A connection carries one request:

    header (operation, stream index, size, lead)   then
    UP     size bytes to the backend          <- when the first and the last came, digest
    DOWN   <- size bytes from the backend
    OPEN   <- one byte
    ECHO   messages of 64 bytes, each answered with itself, until the client ends

Invariants: the receiver's clock counts (CLOCK_MONOTONIC is one clock for all processes of a
machine); payload goes into memory made ready before and is hashed after the clock stopped;
every stream's payload is another one, known to both sides from its index. The clock may run
from ``lead`` seconds after the first byte only, when a new connection knows its path; or from
the middle of the payload, where that comes sooner.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from enum import IntEnum
from functools import cache

Address = tuple[str, int]

_LOOPBACK = "127.0.0.1"
_HEADER = struct.Struct("!BIQd")
_RECEIPT = struct.Struct("!ddQ32s")
_COUNT = struct.Struct("!Q")
_CONGESTION = b"cubic"
"""As everywhere where nobody has chosen another one: baselines are the same on all machines."""
_BLOCK = 1 << 20
_MESSAGE = b"p" * 64
_LEAD = 16 * _BLOCK
"""Bytes of an upload that come before the pings that are timed beside it."""
_PATIENCE = 60.0
"""Seconds without progress after which either side gives up."""


class Operation(IntEnum):
    """What a connection is for."""

    UP = 1
    DOWN = 2
    OPEN = 3
    ECHO = 4
    DROP = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """From when to when the clock ran, monotonic seconds, and what came before it ran."""

    first: float
    last: float
    before: int


class PayloadDamagedError(Exception):
    """What arrived is not what was sent."""


# ---- payload -------------------------------------------------------------------------------


@cache
def _block(index: int) -> bytes:
    return random.Random(index).randbytes(_BLOCK)


def _digest(index: int, size: int) -> bytes:
    """The hash of a whole payload: the stream's block, repeated."""
    block, digest = _block(index), hashlib.sha256()
    for offset in range(0, size, _BLOCK):
        digest.update(block[: size - offset])
    return digest.digest()


def _send_payload(connection: socket.socket, block: bytes, size: int) -> None:
    view = memoryview(block)
    for offset in range(0, size, _BLOCK):
        connection.sendall(view[: size - offset])


def _receive_payload(connection: socket.socket, size: int, lead: float) -> tuple[Transfer, bytes]:
    """The times of a payload of ``size`` bytes (at least 1), and its hash."""
    buffer = bytearray(b"\1") * size  # written once, so that no page is missing later
    view = memoryview(buffer)
    at = before = _receive_some(connection, view[:1])
    first = time.monotonic()
    runs_at = first + lead
    while at < size:
        at += _receive_some(connection, view[at:])
        if first < runs_at and at < size / 2:
            first, before = time.monotonic(), at
    times = Transfer(first=first, last=time.monotonic(), before=before)
    return times, hashlib.sha256(buffer).digest()


def _receive_some(connection: socket.socket, view: memoryview) -> int:
    count = connection.recv_into(view)
    if not count:
        raise PayloadDamagedError("the connection ended early")
    return count


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        at += _receive_some(connection, view[at:])
    return bytes(data)


# ---- the backend ---------------------------------------------------------------------------


def serve(host: str = _LOOPBACK) -> None:
    """Serve requests until killed; the first line on standard output is the port."""
    listener = socket.create_server((host, 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve_one, args=(connection,), daemon=True).start()


def _serve_one(connection: socket.socket) -> None:
    with connection:
        _prepare(connection)
        header = _receive_exactly(connection, _HEADER.size)
        operation, index, size, lead = _HEADER.unpack(header)
        if operation == Operation.UP:
            times, digest = _receive_payload(connection, size, lead)
            connection.sendall(_RECEIPT.pack(*astuple(times), digest))
        elif operation == Operation.DOWN:
            _send_payload(connection, _block(index), size)
        elif operation == Operation.OPEN:
            connection.sendall(b"!")
        elif operation == Operation.DROP:
            connection.sendall(_COUNT.pack(_drop(connection)))
        else:
            while message := connection.recv(len(_MESSAGE)):
                connection.sendall(message)


def _drop(connection: socket.socket) -> int:
    """How many bytes come until the end."""
    buffer, count = bytearray(_BLOCK), 0
    while size := connection.recv_into(buffer):
        count += size
    return count


def _prepare(connection: socket.socket) -> None:
    connection.settimeout(_PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(OSError):  # the kernel has it not, or not for everybody
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _CONGESTION)


# ---- the client ----------------------------------------------------------------------------


def _connect(
    address: Address, operation: Operation, index: int = 0, size: int = 0, lead: float = 0.0
) -> socket.socket:
    connection = socket.create_connection(address, timeout=_PATIENCE)
    _prepare(connection)
    connection.sendall(_HEADER.pack(operation, index, size, lead))
    return connection


def _upload(address: Address, index: int, size: int, lead: float = 0.0) -> Transfer:
    block = _block(index)
    with _connect(address, Operation.UP, index, size, lead) as connection:
        _send_payload(connection, block, size)
        receipt = _receive_exactly(connection, _RECEIPT.size)
    first, last, before, digest = _RECEIPT.unpack(receipt)
    return _verified(Transfer(first=first, last=last, before=before), digest, index, size)


def _download(address: Address, index: int, size: int, lead: float = 0.0) -> Transfer:
    with _connect(address, Operation.DOWN, index, size, lead) as connection:
        times, digest = _receive_payload(connection, size, lead)
    return _verified(times, digest, index, size)


def _verified(times: Transfer, digest: bytes, index: int, size: int) -> Transfer:
    if digest != _digest(index, size):
        raise PayloadDamagedError(f"stream {index} delivered other bytes than were sent")
    return times


def bulk(
    address: Address, operation: Operation, streams: int, size: int, lead: float = 0.0
) -> float:
    """Bytes per second that all streams together moved.

    Args:
        address: The backend's, or an agent's that leads to it.
        operation: UP or DOWN.
        streams: Connections at once.
        size: Bytes of each.
        lead: Seconds of each that do not count.

    Raises:
        PayloadDamagedError: A byte was lost or changed.
        OSError: A connection failed, or stood still.
    """
    for index in range(streams):
        _block(index)  # make it before the clock runs
    move = _upload if operation is Operation.UP else _download
    with ThreadPoolExecutor(streams) as pool:
        transfers = list(pool.map(lambda index: move(address, index, size, lead), range(streams)))
    elapsed = max(each.last for each in transfers) - min(each.first for each in transfers)
    return (streams * size - sum(each.before for each in transfers)) / elapsed


def opens(address: Address, count: int) -> list[float]:
    """Seconds from before the connect to the first byte of the answer, ``count`` times."""
    return [_timed(lambda: _open(address)) for _ in range(count)]


def _open(address: Address) -> None:
    with _connect(address, Operation.OPEN) as connection:
        _receive_exactly(connection, 1)


def pings(address: Address, count: int) -> list[float]:
    """Seconds of each of ``count`` round trips of 64 bytes on one connection that is warm."""
    with _connect(address, Operation.ECHO) as connection:

        def ping() -> None:
            connection.sendall(_MESSAGE)
            if _receive_exactly(connection, len(_MESSAGE)) != _MESSAGE:
                raise PayloadDamagedError("a ping came back as something else")

        for _ in range(20):
            ping()
        return [_timed(ping) for _ in range(count)]


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pings_beside(address: Address, count: int) -> list[float]:
    """The same, while another connection uploads all the time."""
    with _uploading(address):
        return pings(address, count)


@contextmanager
def _uploading(address: Address) -> Iterator[None]:
    """One upload on a thread, from before the body to after it."""
    enough, begun = threading.Event(), threading.Event()
    block = _block(0)

    def upload() -> None:
        with _connect(address, Operation.DROP) as connection:
            sent = 0
            while not enough.is_set():
                connection.sendall(block)
                sent += _BLOCK
                if sent == _LEAD:
                    begun.set()
            connection.shutdown(socket.SHUT_WR)
            (arrived,) = _COUNT.unpack(_receive_exactly(connection, _COUNT.size))
            if arrived != sent:
                raise PayloadDamagedError(f"of {sent} bytes beside pings {arrived} arrived")

    with ThreadPoolExecutor(1) as pool:
        uploading = pool.submit(upload)
        uploading.add_done_callback(lambda _: begun.set())
        begun.wait()
        try:
            yield
        finally:
            enough.set()
        uploading.result()


# ---- as a program --------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """``serve [HOST]``, or ``up|down|open|echo|beside [HOST:]PORT STREAMS SIZE_OR_COUNT [LEAD]``.

    The latter is answered in JSON.
    """
    word, *rest = arguments
    if word == "serve":
        serve(*rest)
    host, _, port = rest[0].rpartition(":")
    address = (host or _LOOPBACK, int(port))
    streams, amount = map(int, rest[1:3])
    started = time.process_time()
    if word in ("up", "down"):
        values = [bulk(address, Operation[word.upper()], streams, amount, *map(float, rest[3:]))]
    else:
        values = {"open": opens, "echo": pings, "beside": pings_beside}[word](address, amount)
    print(json.dumps({"values": values, "cpu_seconds": time.process_time() - started}))


if __name__ == "__main__":
    main(sys.argv[1:])

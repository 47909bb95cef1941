"""The admin socket: a door for our own user and root, whoever can reach it.

gRPC does not tell who is at the other end of a unix socket. So it serves an *inner* socket,
in a directory nobody else may enter; the admin socket itself is ours: we accept its callers,
ask the system for their uid, and pass their bytes on.

Invariants: both sockets have mode 0600 from the moment they exist; a caller with another uid
is closed before a byte of it is read. Who may write to the directory of the admin socket can
put another socket in its place: that directory is the operator's to choose.

Source: control-plane.md, "Who may do what".
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
from asyncio import StreamReader, StreamWriter, TaskGroup
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from outrelay.lib import advice
from outrelay.lib.errors import ConfigError
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.throttle import Throttle
from outrelay.lib.tasks import beside, isolate, spawn

log = get_logger(__name__)

LONGEST_PATH = 107
"""Bytes of a path that fit into a socket's address."""

MOST_CALLERS = 64
CHUNK = 64 * 1024
AFTER_FAULT = 0.1
"""Seconds until the next try to accept, when the process has no file left."""

ROOT = 0
_CREDENTIALS = struct.Struct("3i")
"""Of the peer: pid, uid, gid."""


def inner_socket(path: Path) -> Path:
    """Where gRPC serves what comes through the socket at ``path``."""
    return path.parent / f".{path.name}" / "s"


def clear_socket(path: Path) -> None:
    """Make sure that a socket can be made at ``path``: remove one that nobody serves.

    Raises:
        ConfigError: It cannot: there is something else, another controller, or no directory.
    """
    if len(os.fsencode(inner_socket(path))) > LONGEST_PATH:
        longest = LONGEST_PATH - len(os.fsencode(inner_socket(path))) + len(os.fsencode(path))
        raise _fault(path, f"is longer than {longest} bytes")
    if not path.parent.is_dir():
        raise _fault(path, "is in a directory that does not exist; make it first")
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise _fault(path, "exists and is no socket; remove it or give another path")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(os.fspath(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink()
        return
    except OSError as error:
        raise _fault(path, f"cannot be used: {error.strerror}", advice.on_file(error)) from error
    raise _fault(path, "is served by another controller; stop it or give another path")


@contextmanager
def inner_directory(path: Path) -> Iterator[None]:
    """The directory of the inner socket, ours alone and empty; gone afterwards.

    Raises:
        ConfigError: It cannot be made, or somebody else has made it.
    """
    inner = inner_socket(path)
    try:
        with suppress(FileExistsError):
            inner.parent.mkdir(mode=0o700)
        found = inner.parent.lstat()
        inner.unlink(missing_ok=True)
    except OSError as error:
        raise _fault(
            inner.parent, f"cannot be used: {error.strerror}", advice.on_file(error)
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise _fault(inner.parent, "is not a directory of ours alone; remove it")
    try:
        yield
    finally:
        inner.unlink(missing_ok=True)
        with suppress(OSError):
            inner.parent.rmdir()


@contextmanager
def private_files() -> Iterator[None]:
    """Files made meanwhile are for our user alone from the start."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


@asynccontextmanager
async def open_door(path: Path, *, uids: frozenset[int] | None = None) -> AsyncIterator[None]:
    """Let callers of the socket at ``path`` through to the inner one.

    Args:
        path: Where the socket is made.
        uids: Who may pass; None: our user and root.

    Raises:
        ConfigError: The socket cannot be made.
    """
    may_pass = frozenset({os.geteuid(), ROOT}) if uids is None else uids
    with _listening(path) as door:
        async with beside(_Door(door, path, may_pass).run(), name="admin socket"):
            yield


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as door:
        try:
            with private_files():
                door.bind(os.fspath(path))
        except OSError as error:
            raise _fault(path, f"cannot be made: {error.strerror}") from error
        door.listen()
        door.setblocking(False)
        try:
            yield door
        finally:
            path.unlink(missing_ok=True)


class _Door:
    """Accepts callers and passes on the bytes of those who may pass."""

    def __init__(self, door: socket.socket, path: Path, may_pass: frozenset[int]) -> None:
        self._door = door
        self._inner = inner_socket(path)
        self._may_pass = may_pass
        self._callers = asyncio.Semaphore(MOST_CALLERS)
        self._throttle = Throttle()

    async def run(self) -> None:
        """Let callers in, for ever."""
        loop = asyncio.get_running_loop()
        async with TaskGroup() as group:
            while True:
                try:
                    caller, _ = await loop.sock_accept(self._door)
                except OSError as error:
                    self._throttle.write(log.warning, "admin socket cannot accept", reason=error)
                    await asyncio.sleep(AFTER_FAULT)
                    continue
                if self._is_welcome(caller):
                    isolate(group, self._pass_on(caller), name="admin socket: caller")
                else:
                    caller.close()

    def _is_welcome(self, caller: socket.socket) -> bool:
        _, uid, _ = _CREDENTIALS.unpack(
            caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if uid in self._may_pass:
            return True
        self._throttle.write(log.warning, "caller of the admin socket refused", cause=uid, uid=uid)
        return False

    async def _pass_on(self, caller: socket.socket) -> None:
        """Be the caller to gRPC, and gRPC to the caller, until both have ended."""
        async with self._callers:
            near = await asyncio.open_unix_connection(sock=caller)
            try:
                far = await asyncio.open_unix_connection(os.fspath(self._inner))
            except OSError:  # we are about to stop
                near[1].close()
                return
            async with TaskGroup() as group:
                spawn(group, _pump(near[0], far[1]), name="admin socket: requests")
                spawn(group, _pump(far[0], near[1]), name="admin socket: answers")


async def _pump(reader: StreamReader, writer: StreamWriter) -> None:
    """Pass on what comes until it ends, and let the other side end, too: HTTP/2 has no halves."""
    try:
        with suppress(OSError):  # a broken end is an end
            while (data := await reader.read(CHUNK)) and not writer.is_closing():
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()


def _fault(path: Path, fault: str, fix: str = "") -> ConfigError:
    return ConfigError("--admin-socket", f"{path} {fault}", fix)

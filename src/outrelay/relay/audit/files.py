"""The files of a spool: what is done with them, one blocking step at a time.

Words: a *segment* is a file of records (see record.py), numbered in the order of writing.

Invariants: a folder serves one relay at a time; nobody else can read the files. What was
appended survives this process whatever becomes of it (it is the system's); a system that
loses power may lose what it has not written to the disk yet.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from outrelay.lib import advice
from outrelay.lib.errors import ConfigError

FLAG = "--audit-spool"
LOCK = "lock"
SUFFIX = ".audit"
DAMAGED = ".damaged"

_NAME = re.compile(rf"[0-9a-f]{{16}}{re.escape(SUFFIX)}")


class SpoolFiles:
    """The segments in a folder; make one with ``open_files``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def numbers(self) -> list[int]:
        """Of all segments, in their order."""
        paths = self._folder.iterdir()
        return sorted(int(path.stem, 16) for path in paths if _NAME.fullmatch(path.name))

    def read(self, number: int) -> bytes:
        """A whole segment.

        Raises:
            OSError: It cannot be read.
        """
        return self.path(number).read_bytes()

    def write(self, number: int, at: int, data: bytes) -> None:
        """Write at the end of a segment, which begins to exist by that.

        Args:
            number: The segment.
            at: Where its end is; what an earlier try left there is overwritten.
            data: What to write: all of it, or nothing.

        Raises:
            OSError: It cannot be written.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.path(number), flags, 0o600)
        try:
            _write_all(descriptor, data, at)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, at) if at else self.remove(number)
            raise
        finally:
            os.close(descriptor)

    def remove(self, number: int) -> None:
        """Remove a segment.

        Raises:
            OSError: It cannot be removed.
        """
        self.path(number).unlink(missing_ok=True)

    def set_aside(self, number: int) -> Path:
        """Leave a segment for people to look at; where it is now.

        Raises:
            OSError: It cannot be renamed.
        """
        path = self.path(number)
        return path.rename(path.with_name(path.name + DAMAGED))

    def path(self, number: int) -> Path:
        """Where a segment is."""
        return self._folder / f"{number:016x}{SUFFIX}"


@contextmanager
def open_files(folder: Path) -> Iterator[SpoolFiles]:
    """Use a folder as a spool, alone.

    Args:
        folder: Made (mode 0700) when absent.

    Raises:
        ConfigError: It cannot be used, or another relay uses it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        lock = os.open(folder / LOCK, flags, 0o600)
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield SpoolFiles(folder)
    except BlockingIOError as error:
        fault = f"{folder} is used by another relay"
        raise ConfigError(FLAG, fault, "give each relay a folder of its own") from error
    finally:
        os.close(lock)


def try_spool(folder: Path) -> None:
    """See whether a folder can be used as a spool.

    Raises:
        ConfigError: It cannot.
    """
    with open_files(folder) as files:
        probe = max(files.numbers(), default=-1) + 1
        try:
            files.write(probe, 0, b"\0")
            files.remove(probe)
        except OSError as error:
            raise _unusable(folder, error) from error


def _unusable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(FLAG, f"{folder} cannot be used: {error.strerror}", advice.on_file(error))


def _write_all(descriptor: int, data: bytes, at: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left, at)
        left, at = left[written:], at + written

"""Files as lines: plain or gzip, named or standard input, of any length.

Source: commands.md, "correlate".
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final, cast

from outrelay.lib import advice

STDIN: Final = "-"

LONGEST: Final = 256 * 1024
"""Bytes of a line; a longer one is none of ours."""

_BLOCK: Final = 256 * 1024
_GZIP: Final = b"\x1f\x8b"


class UnreadableError(Exception):
    """A file that could not be read, or not to its end; the text says why."""


def lines_of(name: str) -> Iterator[list[bytes]]:
    """The lines of a file, many at a time; unpacked if it is gzip's, whatever its name.

    A line that is longer than ``LONGEST`` comes as its beginning, which is not shorter than that.

    Args:
        name: Its path; ``-`` is standard input.

    Raises:
        UnreadableError: It cannot be opened, or not read to its end.
    """
    try:
        with _file(name) as file:
            if file.peek(len(_GZIP)).startswith(_GZIP):
                with gzip.open(file) as unpacked:
                    yield from split(cast("BinaryIO", unpacked))
            else:
                yield from split(file)
    except EOFError as error:
        raise UnreadableError("the compressed data ends in the middle") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableError(f"the compressed data is damaged ({error})") from error
    except OSError as error:
        fault, fix = error.strerror or str(error), advice.on_file(error)
        raise UnreadableError(f"{fault}; {fix}" if fix else fault) from error


def _file(name: str) -> io.BufferedReader:
    if name == STDIN:
        return io.BufferedReader(io.FileIO(os.dup(0)), _BLOCK)
    return io.BufferedReader(io.FileIO(name), _BLOCK)


def split(file: BinaryIO) -> Iterator[list[bytes]]:
    """The lines of an open file, as ``lines_of`` has them."""
    rest = b""
    is_cut = False  # what comes next belongs to a line that was given up
    while block := file.read(_BLOCK):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        if is_cut and lines:
            del lines[0]
            is_cut = False
        if is_cut:
            rest = b""
        elif len(rest) >= LONGEST:
            lines.append(rest)
            rest, is_cut = b"", True
        yield lines
    if rest:
        yield [rest]

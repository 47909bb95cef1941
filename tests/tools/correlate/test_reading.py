"""Files as lines: compressed or not, damaged, endless."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.tools.correlate import reading
from outrelay.tools.correlate.reading import LONGEST, UnreadableError, lines_of, split


def lines(path: Path) -> list[bytes]:
    return [line for some in lines_of(str(path)) for line in some]


@given(data=st.binary(max_size=200), block=st.integers(1, 16))
def test_lines_are_lines_wherever_blocks_end(data: bytes, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_BLOCK", block)
        found = [line for some in split(io.BytesIO(data)) for line in some]
    expected = data.split(b"\n")
    assert found == (expected if expected[-1] else expected[:-1])


@pytest.mark.parametrize("name", ["a.log.gz", "a.log"])
def test_gzip_is_known_by_its_bytes_not_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"one\ntwo\n") + gzip.compress(b"three"))
    assert lines(path) == [b"one", b"two", b"three"]


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.log.gz"
    path.touch()
    assert lines(path) == []


def test_a_file_that_ends_too_early_is_read_to_there(tmp_path: Path) -> None:
    path = tmp_path / "a.log.gz"
    path.write_bytes(gzip.compress(b"one\n" * 100_000, compresslevel=0)[:300_000])
    found = []
    with pytest.raises(UnreadableError, match="ends in the middle"):
        for some in lines_of(str(path)):
            found += some
    assert found
    assert set(found) == {b"one"}


@pytest.mark.parametrize("at", [2, 12, -6])
def test_a_damaged_file(tmp_path: Path, at: int) -> None:
    data = bytearray(gzip.compress(b"one\n" * 100))
    data[at] ^= 0xFF
    path = tmp_path / "a.log.gz"
    path.write_bytes(data)
    with pytest.raises(UnreadableError, match="damaged"):
        lines(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="No such file"):
        lines(tmp_path / "absent")
    with pytest.raises(UnreadableError, match="Is a directory"):
        lines(tmp_path)


def test_a_line_without_end_costs_no_memory_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"before\n" + b"x" * (5 * LONGEST) + b"\nafter\n" + b"y" * (2 * LONGEST))
    found = lines(path)
    assert found[0] == b"before"
    assert found[2] == b"after"
    assert len(found) == 4
    assert all(LONGEST <= len(found[each]) < 3 * LONGEST for each in (1, 3))

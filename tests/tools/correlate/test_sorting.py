"""The external sort: any input, in any memory, in order, and nothing left behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.tools.correlate.sorting import Sorter

records = st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"") + b"\n")


@given(data=st.lists(records, max_size=60), memory=st.integers(1, 2000), fan_in=st.integers(2, 5))
def test_it_sorts(data: list[bytes], memory: int, fan_in: int) -> None:
    with Sorter(memory, fan_in) as sorter:
        for each in data:
            sorter.add(each)
        assert list(sorter) == sorted(data)
        assert list(sorter) == sorted(data)  # as often as is asked


def test_runs_are_merged_when_they_are_many() -> None:
    with Sorter(memory=1, fan_in=3) as sorter:
        for number in range(100):
            sorter.add(b"%03d\n" % (number * 37 % 100))
        assert sum(map(len, sorter._levels)) < 3 * 5
        assert list(sorter) == [b"%03d\n" % number for number in range(100)]


def test_temporary_files_are_where_they_should_be_and_have_no_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Sorter(memory=1) as sorter:
        sorter.add(b"b\n")
        sorter.add(b"a\n")
        assert list(tmp_path.iterdir()) == []
        assert list(sorter) == [b"a\n", b"b\n"]


def test_no_room_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with Sorter(memory=1) as sorter, pytest.raises(FileNotFoundError):
        sorter.add(b"a\n")

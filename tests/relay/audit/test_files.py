"""The files of a spool: all of a write or nothing, for one relay, for nobody else's eyes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrelay.lib.errors import ConfigError
from outrelay.relay.audit.files import SpoolFiles, open_files, try_spool


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "spool"


@pytest.fixture
def files(folder: Path) -> Iterator[SpoolFiles]:
    with open_files(folder) as files:
        yield files


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_is_read(files: SpoolFiles) -> None:
    files.write(7, 0, b"first")
    files.write(7, 5, b", second")
    files.write(12, 0, b"another")
    assert files.read(7) == b"first, second"
    assert files.numbers() == [7, 12]

    files.remove(7)
    files.remove(7)
    assert files.numbers() == [12]


def test_nobody_else_may_look(folder: Path, files: SpoolFiles) -> None:
    files.write(7, 0, b"who called whom")
    assert mode(folder) == 0o700
    assert {mode(path) for path in folder.iterdir()} == {0o600}


def test_other_files_are_let_be(folder: Path, files: SpoolFiles) -> None:
    files.write(7, 0, b"ours")
    (folder / "7.audit").touch()
    (folder / "lost+found").mkdir()
    assert files.numbers() == [7]


def test_what_is_set_aside_is_no_segment_any_more(files: SpoolFiles) -> None:
    files.write(7, 0, b"odd")
    path = files.set_aside(7)
    assert path.read_bytes() == b"odd"
    assert files.numbers() == []


def _full_disk(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Have writes stop after some bytes, in the middle."""
    pwrite, left = os.pwrite, [room]

    def write_some(descriptor: int, data: bytes, at: int) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = pwrite(descriptor, bytes(data[: left[0]]), at)
        left[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", write_some)


def test_a_full_disk_takes_all_or_nothing(
    files: SpoolFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(7, 0, b"before")
    _full_disk(monkeypatch, 3)
    with pytest.raises(OSError, match="No space"):
        files.write(7, 6, b"too long")
    assert files.read(7) == b"before"
    with pytest.raises(OSError, match="No space"):
        files.write(8, 0, b"x")
    assert files.numbers() == [7]


def test_two_relays_never_share_a_folder(folder: Path, files: SpoolFiles) -> None:
    with pytest.raises(ConfigError, match=r"--audit-spool: .* is used by another relay"):
        open_files(folder).__enter__()
    with pytest.raises(ConfigError, match="another relay"):
        try_spool(folder)


def test_a_folder_is_free_again_after_its_relay(folder: Path) -> None:
    for _ in range(2):
        with open_files(folder):
            pass


def test_a_folder_that_can_be_used_is_left_as_it_was(folder: Path) -> None:
    with open_files(folder) as files:
        files.write(7, 0, b"waits")
    try_spool(folder)
    with open_files(folder) as files:
        assert files.numbers() == [7]
        assert files.read(7) == b"waits"


def test_a_folder_that_cannot_be_used_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for use in (lambda path: open_files(path).__enter__(), try_spool):
        with pytest.raises(ConfigError, match=r"--audit-spool: .*file cannot be used: "):
            use(tmp_path / "file")


def test_a_folder_that_takes_no_files_is_found_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _full_disk(monkeypatch, 0)
    with pytest.raises(ConfigError, match="cannot be used: No space left on device"):
        try_spool(folder)

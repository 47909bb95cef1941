"""Lines of numbers in a file: whole ones, not too many, and never at the service's cost."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge

from outrelay.lib.errors import ConfigError
from outrelay.lib.observe import dump
from outrelay.lib.observe.dump import Dump, append, try_dump
from outrelay.lib.observe.views import Views
from outrelay.lib.tasks import beside
from tests.support.events import Events
from tests.support.patience import PATIENCE


def views() -> Views:
    registry = CollectorRegistry()
    Gauge("depth", "Depth.", registry=registry).set(2)
    return Views(component="relay", registry=registry)


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_line_has_a_time_a_component_and_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, loop, written = tmp_path / "metrics.jsonl", asyncio.get_running_loop(), asyncio.Event()

    def then_tell(at: Path, line: bytes) -> None:
        append(at, line)
        if len(lines_of(at)) == 3:
            loop.call_soon_threadsafe(written.set)

    monkeypatch.setattr(dump, "append", then_tell)
    async with asyncio.timeout(PATIENCE):
        async with beside(Dump(path, views()).run(0.001), name="dump"):
            await written.wait()

    first, second, *_ = lines_of(path)
    assert (first["component"], first["metrics"]) == ("relay", {"depth": 2})
    assert 0 < first["ts_unix_ms"] <= second["ts_unix_ms"]


def test_the_last_line_is_written_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"

    Dump(path, views()).finish()

    assert len(lines_of(path)) == 1


def test_what_is_there_stays_and_others_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, b"one\n")
    append(path, b"two\n")

    assert path.read_bytes() == b"one\ntwo\n"
    assert path.stat().st_mode & 0o027 == 0


def test_a_file_that_is_full_makes_place_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump, "MOST", 10)
    path = tmp_path / "metrics.jsonl"

    for number in range(6):
        append(path, f"{number:03}\n".encode())

    assert path.read_bytes() == b"004\n005\n"
    assert (tmp_path / "metrics.jsonl.1").read_bytes() == b"002\n003\n"
    assert len([*tmp_path.iterdir()]) == 2


def test_a_line_for_which_there_is_no_room_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, b"one\n")
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:2]))

    with pytest.raises(OSError, match="No space left"):
        append(path, b"two\n")

    assert path.read_bytes() == b"one\n"


def test_a_disk_that_takes_nothing_costs_one_line_of_the_log(tmp_path: Path, seen: Events) -> None:
    folder = tmp_path / "gone"
    path = folder / "metrics.jsonl"
    dumping = Dump(path, views())

    dumping.finish()
    dumping.finish()
    assert [each["error"] for each in seen.of("metrics not dumped")] == [
        "No such file or directory"
    ]
    folder.mkdir()
    dumping.finish()

    assert len(seen.of("metrics are dumped again")) == 1
    assert len(lines_of(path)) == 1


def test_a_full_device_is_an_error_like_others(seen: Events) -> None:
    Dump(Path("/dev/full"), views()).finish()

    assert [each["error"] for each in seen.of("metrics not dumped")] == ["No space left on device"]


def test_a_pipe_that_nobody_reads_holds_up_nobody(tmp_path: Path, seen: Events) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)

    Dump(path, views()).finish()

    assert len(seen.of("metrics not dumped")) == 1


def test_a_file_that_cannot_be_is_the_flags_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--metrics-dump: .* cannot be written: No such file"):
        try_dump(tmp_path / "no" / "metrics.jsonl")

"""What has worked in a network is known the next time, unless the file is of no use."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from outrelay.lib.transport.known import FILE, MOST, KnownWays
from outrelay.lib.transport.ways import Carrier, Endpoint
from tests.support.events import events

QUIC = Endpoint(Carrier.QUIC, ("relay.test", 7443))
TCP = Endpoint(Carrier.TCP, ("2001:db8::1", 443))


def test_what_worked_is_known_in_the_next_run(tmp_path: Path) -> None:
    first = KnownWays(tmp_path / "state")
    assert first.last("home") is None
    first.remember("home", QUIC)
    first.remember("office", QUIC)
    first.remember("office", TCP)
    again = KnownWays(tmp_path / "state")
    assert (again.last("home"), again.last("office")) == (QUIC, TCP)
    assert again.last("elsewhere") is None
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert [each.name for each in (tmp_path / "state").iterdir()] == [FILE]


def test_without_a_directory_nothing_outlives_the_process() -> None:
    known = KnownWays(None)
    known.remember("home", TCP)
    assert known.last("home") == TCP
    assert KnownWays(None).last("home") is None


def test_only_the_latest_networks_are_kept(tmp_path: Path) -> None:
    known = KnownWays(tmp_path)
    known.remember("first", QUIC)
    known.remember("second", QUIC)
    for number in range(MOST - 1):
        known.remember(f"network {number}", QUIC)
    known = KnownWays(tmp_path)
    assert known.last("first") is None
    assert known.last("second") == QUIC


def test_what_is_known_already_is_not_written_again(tmp_path: Path) -> None:
    known = KnownWays(tmp_path)
    known.remember("home", QUIC)
    (tmp_path / FILE).unlink()
    known.remember("home", QUIC)
    assert not (tmp_path / FILE).exists()
    known.remember("home", TCP)
    assert (tmp_path / FILE).exists()


WHOLE = {"carrier": "tcp", "address": "relay.test:443"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"version"',
        "{}",
        '{"version": 2, "networks": {}}',
        '{"version": 1}',
        '{"version": 1, "networks": []}',
        '{"version": 1, "networks": {"home": null}}',
        json.dumps({"version": 1, "networks": {"home": WHOLE | {"carrier": "smoke"}}}),
        json.dumps({"version": 1, "networks": {"home": WHOLE | {"address": "nowhere"}}}),
        json.dumps({"version": 1, "networks": {"home": WHOLE | {"address": 7}}}),
        "\udcff",
    ],
)
def test_a_file_of_no_use_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_bytes(text.encode(errors="surrogateescape"))
    known = KnownWays(tmp_path)
    assert known.last("home") is None
    known.remember("home", TCP)
    assert KnownWays(tmp_path).last("home") == TCP


def test_what_cannot_be_read_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    assert KnownWays(tmp_path).last("home") is None


async def test_what_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with events() as seen:
        known = KnownWays(blocked)
        known.remember("home", QUIC)
        known.remember("home", TCP)
    assert known.last("home") == TCP
    assert len(seen.of("what leads to a relay is not remembered")) == 1

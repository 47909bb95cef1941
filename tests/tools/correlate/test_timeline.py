"""The drawing: what a person sees of a stream."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.tools.correlate.logs import (
    CALLER,
    PROVIDER,
    T0,
    agent,
    audit,
    correlate,
    finished,
    relay,
    write,
)

BACKEND = {"code": 502, "reason": "the provider's backend cannot be reached: Connection refused"}

DRAWN = """\
stream 3f2a9c0d11e45b67
  service   shop
  consumer  outrelay://acme/agent/1b2c3d4e-0000-4000-8000-000000000001
  provider  outrelay://acme/agent/9f8e7d6c-0000-4000-8000-000000000002
  began     2026-09-21 14:13:20.000 UTC; 9 events in 1.234 s

  C consumer agent-a.log
  R relay    relay.log
  P provider agent-b.log
  A audit r1 audit.json

      time  C R P A
      0 ms  ●        opening stream
     +1 ms  │ ●      asking a provider
     +2 ms  │ │ ✗    backend failed          127.0.0.1:9; cannot be reached:
            │ │ │                            Connection refused
     +3 ms  │ │ ✗    incoming stream refused 502 the provider's backend cannot
            │ │                              be reached: Connection refused
     +4 ms  │ ✗      provider rests          the same
     +5 ms  │ │   ✗  audit: reject           the same
     +6 ms  │ ✗      stream refused          the same
     +7 ms  ○        disconnected            2 times; gone; relay
            │                                outrelay://local/relay/r1
  +1.200 s  ✗        open refused            502 the provider's backend cannot
            │                                be reached: Connection refused; one
            │                                line for 3 streams, up to a second
            │                                late
  +1.234 s  ●        another line            colour red

  stopped   at the provider, refused: 502 the provider's backend cannot be
            reached: Connection refused
  last      another line (consumer, +1.234 s)
  next      is the backend of shop running? outrelay-agent doctor, beside it
"""


def drawn(folder: Path, *flags: str, columns: int = 80) -> str:
    """The timeline of a stream whose provider's backend is down."""
    os.chdir(folder)
    names = write(
        folder,
        {
            "agent-a.log": [
                agent(0, "opening stream", service="shop"),
                agent(7, "disconnected", "", reason="gone", relay="outrelay://local/relay/r1"),
                agent(8, "disconnected", "", reason="gone", relay="outrelay://local/relay/r1"),
                agent(1200, "open refused", service="shop", times=3, hint="do", **BACKEND),
                agent(1234, "another line", colour="red", empty="", inner={"a": 1}),
            ],
            "relay.log": [
                relay(1, "asking a provider", provider=PROVIDER),
                relay(1, "agent connected", "", agent="outrelay://acme/agent/somebody-else"),
                relay(4, "provider rests", provider=PROVIDER, service="shop", **BACKEND),
                relay(6, "stream refused", consumer=CALLER, service="shop", **BACKEND),
            ],
            "agent-b.log": [
                agent(
                    2,
                    "backend failed",
                    service="shop",
                    target="127.0.0.1:9",
                    reason="cannot be reached: Connection refused",
                ),
                agent(3, "incoming stream refused", service="shop", peer=CALLER, **BACKEND),
            ],
            "audit.json": [audit(5, "reject", f"502 {BACKEND['reason']}")],
        },
    )
    relative = [Path(name).name for name in names]
    done = correlate("--output", "timeline", *flags, *relative, columns=columns)
    assert done.exit_code == 0
    return done.stdout


def test_a_stream_is_drawn(tmp_path: Path) -> None:
    assert drawn(tmp_path) == DRAWN


def test_there_is_more_room_in_a_wide_terminal(tmp_path: Path) -> None:
    rows = drawn(tmp_path, columns=120).splitlines()
    assert max(map(len, rows)) <= 120
    assert any(
        "cannot be reached: Connection refused" in row and "backend failed" in row for row in rows
    )


def test_a_narrow_terminal_is_not_narrower_than_can_be_read(tmp_path: Path) -> None:
    assert max(map(len, drawn(tmp_path, columns=20).splitlines())) <= 70


def test_clocks_are_corrected_and_that_is_told(tmp_path: Path) -> None:
    for number in range(8):
        ahead = finished(f"{number:016x}", at=number * 100, consumer=5000)
        names = write(tmp_path, ahead)
    done = correlate("--output", "timeline", "--id", "0" * 16, *names, columns=300)
    rows = done.stdout.replace(f"{tmp_path}/", "")
    assert "clock     agent-a.log is 5.001 s ±250 ms ahead (8 streams), corrected here" in rows
    assert [row.split()[:3] for row in rows.splitlines() if "stream " in row][1:4] == [
        ["0", "ms", "●"],
        ["0", "ms", "●"],
        ["+2", "ms", "│"],
    ]
    assert "clock:" in done.stderr
    lines = correlate("--id", "0" * 16, *names).stdout
    assert str(T0 + 5003) in lines  # nowhere else


def test_several_streams_one_below_the_other(tmp_path: Path) -> None:
    names = write(tmp_path, finished("0" * 16))
    write(tmp_path, finished("1" * 16))
    done = correlate("--output", "timeline", *names)
    assert done.stdout.count("  finished  ") == 2
    assert f"\n\nstream {'1' * 16}\n" in done.stdout


def test_a_stream_with_very_many_events_is_drawn_in_part(tmp_path: Path) -> None:
    many = [relay(number, "stream resumed") for number in range(1000)]
    done = correlate("--output", "timeline", *write(tmp_path, {"relay.log": many}))
    assert done.stdout.count("stream resumed") == 200 + 1  # the last one is told below, too
    assert "800 more events are not drawn" in done.stdout


def test_what_peers_wrote_cannot_move_the_cursor(tmp_path: Path) -> None:
    evil = relay(1, "stream refused", service="\x1b[2J", code=1, reason="\x1b]0;x\x07\n\x9b")
    done = correlate("--output", "timeline", *write(tmp_path, {"relay.log": [evil]}))
    assert all(row.isprintable() for row in done.stdout.splitlines())
    assert "\\x1b[2J" in done.stdout


def test_a_terminal_that_knows_only_ascii(tmp_path: Path) -> None:
    names = write(tmp_path, finished())
    done = subprocess.run(
        [Path(sys.executable).with_name("correlate"), "--output", "timeline", *names],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "100"},
        capture_output=True,
        check=True,
    )
    text = done.stdout.decode("ascii")
    assert "* |    stream opened" in text
    assert "+   |  stream ended" in text


def test_what_went_wrong_is_red_in_a_terminal(tmp_path: Path) -> None:
    names = write(tmp_path, {"r": [relay(0, "stream refused", reason="no", code=403)]})
    done = subprocess.run(
        [Path(sys.executable).with_name("correlate"), "--output", "timeline", *names],
        env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        check=True,
    )
    text = done.stdout.decode()
    assert "\x1b[1;31m✗\x1b[0m" in text
    assert "\x1b[1;31mstream refused\x1b[0m" in text
    assert "\x1b[2m      0 ms  \x1b[0m" in text

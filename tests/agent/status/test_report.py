"""What people read of an agent's status."""

from __future__ import annotations

import pytest

from outrelay.agent.status.asking import Status
from outrelay.agent.status.report import Rates, head_of, is_connected, show

NOW = 1_800_000_000_000
CALM = Rates(up=0.0, down=0.0)


def session(**more: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "relay": "outrelay://local/relay/r1",
        "address": "192.0.2.1:7443",
        "carrier": "quic",
        "engine": "aioquic",
        "current": True,
        "leaving": False,
        "since_unix_ms": NOW - 65_000,
        "streams": 3,
        "rtt_ms": 1.25,
        "certificate_not_after_unix_ms": NOW + 3_600_000,
    }
    return {**fields, **more}


def status(**more: object) -> Status:
    fields: dict[str, object] = {
        "identity": "outrelay://acme/agent/a",
        "version": "1.2",
        "quic_engine": "native",
        "pid": 42,
        "ts_unix_ms": NOW,
        "started_unix_ms": NOW - 7_500_000,
        "certificate_not_after_unix_ms": NOW + 3_600_000,
        "unready": [],
        "sessions": [session()],
        "exposed": [
            {"service": "db", "target": "127.0.0.1:1", "registered": True, "refused": None},
            {"service": "web", "target": "127.0.0.1:2", "registered": False, "refused": "403 no"},
            {"service": "ssh", "target": "127.0.0.1:3", "registered": False, "refused": None},
        ],
        "consumed": [{"service": "cache", "method": "read", "address": "127.0.0.1:4"}],
        "streams": 1,
        "bytes_up": 2048,
        "bytes_down": 1024,
    }
    return {**fields, **more}


def test_all_of_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    show(status(), Rates(up=2048.0, down=0.0))
    head, *tables = capsys.readouterr().out.split("\n\n")
    first, second, third, fourth = head.splitlines()
    assert first == "outrelay://acme/agent/a: connected"
    assert second == "version 1.2, QUIC engine native, process 42, up for 2h05m"
    assert third.startswith("certificate ends in 1h00m (")
    assert fourth == (
        "1 stream; 2.0 KiB up, 1.0 KiB down since the start; now 2.0 KiB/s up, 0 B/s down"
    )
    sessions, exposed, consumed = (table.splitlines() for table in tables)
    assert sessions[1].split() == [
        "local/relay/r1", "192.0.2.1:7443", "quic", "aioquic", "current", "1m05s", "3",
        "1.2", "ms", "1h00m",
    ]  # fmt: skip
    assert [line.split(maxsplit=2)[2].strip() for line in exposed[1:]] == [
        "registered",
        "403 no",
        "not registered yet",
    ]
    assert consumed[1].split() == ["cache", "read", "127.0.0.1:4"]


def test_what_keeps_it_from_its_work_comes_first() -> None:
    lines = head_of(status(sessions=[], unready=["no relay is connected\x1b[2J"]), CALM)
    assert next(lines) == "outrelay://acme/agent/a: NOT CONNECTED"
    assert next(lines).startswith("not ready: no relay is connected")


def test_a_certificate_that_has_ended_is_told_loudly() -> None:
    lines = head_of(status(certificate_not_after_unix_ms=NOW - 1), CALM)
    assert any(line.startswith("certificate has EXPIRED (") for line in lines)


def test_a_session_is_current_leaving_or_old(capsys: pytest.CaptureFixture[str]) -> None:
    sessions = [session(), session(leaving=True), session(current=False, rtt_ms=None)]
    show(status(sessions=sessions, exposed=[], consumed=[]), CALM)
    _, table = capsys.readouterr().out.split("\n\n")
    assert [line.split()[4] for line in table.splitlines()[1:]] == ["current", "leaving", "old"]


def test_connected_is_who_has_a_session_for_new_streams() -> None:
    assert is_connected(status())
    assert not is_connected(status(sessions=[session(current=False)]))
    assert not is_connected({})


def test_what_an_agent_does_not_tell_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    show({"sessions": "garbage", "unready": [7]}, CALM)
    assert "0 streams" in capsys.readouterr().out


def test_rates_are_what_passed_between_two_looks() -> None:
    later = status(ts_unix_ms=NOW + 500, bytes_up=3048, bytes_down=24)
    assert Rates.between(status(), later) == Rates(up=2000.0, down=0.0)
    assert Rates.between(status(), status()) == CALM

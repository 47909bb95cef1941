"""The check of log lines finds what is wrong with one."""

from __future__ import annotations

import json

import pytest

from tests.support.log_lines import fault_in_line

GOOD = {
    "ts_unix_ms": 1,
    "level": "info",
    "component": "relay",
    "event": "stream ended",
    "stream_id": "00000000000000ff",
    "reason": "finished",
}


def test_a_good_line() -> None:
    assert fault_in_line(json.dumps(GOOD)) == ""
    assert fault_in_line(json.dumps({**GOOD, "times": 3})) == ""


def test_a_librarys_line_may_say_what_it_likes() -> None:
    line = {**GOOD, "event": "Executing <Task> took 1 s", "level": "critical", "logger": "asyncio"}
    assert fault_in_line(json.dumps(line)) == ""


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"ts_unix_ms": "1"}, "ts_unix_ms is no integer"),
        ({"ts_unix_ms": True}, "ts_unix_ms is no integer"),
        ({"level": "loud"}, "no level"),
        ({"level": "error"}, "its event has another level in the vocabulary"),
        ({"component": "demo"}, "no component"),
        ({"component": "controller"}, "its event is not this component's in the vocabulary"),
        ({"event": "stream vanished"}, "its event is not in the vocabulary"),
        ({"stream_id": "FF"}, "stream_id is not 16 hex digits"),
        ({"stream_id": ""}, "stream_id is not 16 hex digits"),
        ({"times": "2"}, "times is no integer"),
        ({"colour": "red", "age": 7}, "not in the vocabulary: age, colour"),
    ],
)
def test_a_bad_line(change: dict[str, object], fault: str) -> None:
    assert fault_in_line(json.dumps({**GOOD, **change})) == fault


@pytest.mark.parametrize("line", ["", "Traceback", "[1]", '{"ts_unix_ms": 1'])
def test_no_line(line: str) -> None:
    assert fault_in_line(line).startswith("it is no JSON")

"""What a line is, for correlate."""

from __future__ import annotations

import pytest

from outrelay.tools.correlate.line import Entry, Not, parse, speaker_of, time_of
from outrelay.tools.correlate.reading import LONGEST


def test_a_line_with_both_fields_is_an_entry() -> None:
    line = b'{"event":"x","stream_id":"00000000000000fF","ts_unix_ms":17}'
    found = parse(line)
    assert isinstance(found, Entry)
    assert (found.stream_id, found.ts, found.fields["event"]) == ("00000000000000ff", 17, "x")


def test_the_fields_may_be_written_in_any_way_json_has() -> None:
    escaped = rb'{"ts_unix_ms" : 1 , "stream\u005fid":"\u0030123456789abcdef"}'
    found = parse(escaped)
    assert isinstance(found, Entry)
    assert found.stream_id == "0123456789abcdef"


def test_fields_inside_others_are_not_the_lines() -> None:
    inside = b'{"said":{"stream_id":"0123456789abcdef","ts_unix_ms":1}}'
    quoted = rb'{"said":"\"stream_id\": \"0123456789abcdef\", \"ts_unix_ms\": 1"}'
    assert isinstance(parse(inside), dict)
    assert isinstance(parse(quoted), dict)


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b'{"stream_id":"0123456789abcdef"}',
        b'{"ts_unix_ms":1}',
        b'{"stream_id":"","ts_unix_ms":1}',
        b'{"stream_id":"0123456789abcde","ts_unix_ms":1}',
        b'{"stream_id":"0x23456789abcdef","ts_unix_ms":1}',
        b'{"stream_id":123456789012345,"ts_unix_ms":1}',
        b'{"stream_id":"0123456789abcdef","ts_unix_ms":"1"}',
        b'{"stream_id":"0123456789abcdef","ts_unix_ms":1.0}',
        b'{"stream_id":"0123456789abcdef","ts_unix_ms":true}',
        b'{"stream_id":"0123456789abcdef","ts_unix_ms":-1}',
        b'{"stream_id":"0123456789abcdef","ts_unix_ms":281474976710656}',
        b'{"stream_id":"0123456789abcdef","ts_unix_ms":99999999999999999999999}',
    ],
)
def test_a_line_without_both_fields_is_none(line: bytes) -> None:
    assert isinstance(parse(line), dict)


@pytest.mark.parametrize(
    "line",
    [
        b"relay-1  | {}",
        b"[1]",
        b'"text"',
        b"17",
        b'{"ts_unix_ms":1,"stream_id":"0123456789abcdef"',
        b'{"ts_unix_ms":1,"stream_id":"0123456789abcdef"}}',
        b'{"ts_unix_ms":1,"stream_id":"0123456789abcdef","x":"\xff"}',
        b'{"a":' * 3000 + b"1" + b"}" * 3000,
        b'{"a":"' + b"x" * LONGEST + b'"}',
    ],
)
def test_a_broken_line(line: bytes) -> None:
    assert parse(line) is Not.AN_OBJECT


def test_what_is_no_line_at_all() -> None:
    assert parse(b"") is Not.A_LINE
    assert parse(b"# stream_id=0123456789abcdef events=2") is Not.A_LINE


def test_who_speaks() -> None:
    assert speaker_of({"component": "relay", "relay_id": "r1"}) == "relay"
    assert speaker_of({"relay_id": "r1", "decision": "allow"}) == "audit r1"
    assert speaker_of({"decision": "allow"}) == "audit"
    assert speaker_of({"component": 7}) == ""


def test_when() -> None:
    assert time_of({"ts_unix_ms": 5}) == 5
    assert time_of({"ts_unix_ms": "5"}) is None
    assert time_of({}) is None

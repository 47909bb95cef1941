"""Findings: how they read, and which of several ways decide."""

from __future__ import annotations

import json

from outrelay.agent.doctor.findings import (
    Finding,
    Mark,
    as_json,
    as_text,
    has_failed,
    of_alternatives,
)

FINE = Finding(subject="clock", mark=Mark.OK, text="agrees")
BAD = Finding(subject="relay r:1", mark=Mark.FAIL, text="does not answer", advice="allow UDP")


def test_a_finding_is_a_line_and_what_to_do_about_it() -> None:
    assert as_text(FINE) == "ok    clock: agrees"
    assert as_text(BAD) == "FAIL  relay r:1: does not answer\n      -> allow UDP"


def test_programs_get_a_line_of_json() -> None:
    assert json.loads(as_json(BAD)) == {
        "subject": "relay r:1",
        "result": "fail",
        "text": "does not answer",
        "advice": "allow UDP",
    }


def test_one_way_that_works_makes_the_others_warnings() -> None:
    assert [each.mark for each in of_alternatives([BAD, FINE])] == [Mark.WARN, Mark.OK]


def test_no_way_that_works_is_a_failure() -> None:
    assert of_alternatives([BAD, BAD]) == [BAD, BAD]
    assert has_failed([FINE, BAD])
    assert not has_failed(of_alternatives([FINE, BAD]))

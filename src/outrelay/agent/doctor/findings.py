"""What the doctor found: values, and how people and programs read them. Pure.

Words: a *finding* is one line about one subject. Several ways to a relay are *alternatives*:
one that works is enough, so what is wrong with the others becomes a warning.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


class Mark(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was tried.

    Args:
        subject: What it is about.
        mark: How it went.
        text: What was seen.
        advice: What to do about it; empty when there is nothing to do.
    """

    subject: str
    mark: Mark
    text: str
    advice: str = ""


_INDENT = 6


def as_text(finding: Finding) -> str:
    """A finding for people: its mark and subject, what was seen, and what to do."""
    lines = [f"{finding.mark.upper() if finding.mark is Mark.FAIL else finding.mark:<{_INDENT}}"]
    lines[0] += f"{finding.subject}: {finding.text}"
    if finding.advice:
        lines.append(f"{'':{_INDENT}}-> {finding.advice}")
    return "\n".join(lines)


def as_json(finding: Finding) -> str:
    """A finding for programs: one line."""
    fields = {
        "subject": finding.subject,
        "result": str(finding.mark),
        "text": finding.text,
        "advice": finding.advice,
    }
    return json.dumps(fields)


def of_alternatives(findings: Sequence[Finding]) -> list[Finding]:
    """The same, but that what failed is a warning when another one works."""
    if all(each.mark is Mark.FAIL for each in findings):
        return list(findings)
    return [replace(each, mark=Mark.WARN) if each.mark is Mark.FAIL else each for each in findings]


def has_failed(findings: Iterable[Finding]) -> bool:
    """Whether anything keeps the agent from working."""
    return any(each.mark is Mark.FAIL for each in findings)

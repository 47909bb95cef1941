"""Completion: words of commands and flags, also where required flags are missing."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete

from outrelay.tools.reference import programs

PROGRAMS = {program.name: program for program in programs()}


def completed(*words: str) -> set[str]:
    """What the last word may become."""
    name, *before, last = words
    program = PROGRAMS[name]
    complete = ShellComplete(program, {}, name, f"_{name.upper().replace('-', '_')}_COMPLETE")
    return {item.value for item in complete.get_completions(before, last)}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("outrelay-cli", "po"), {"policy"}),
        (("outrelay-cli", "policy", "ex"), {"explain"}),
        (("outrelay-cli", "policy", "add", "--dec"), {"--decision"}),
        (("outrelay-cli", "policy", "add", "--decision", ""), {"allow", "deny"}),
        (("outrelay-relay", "--listen-t"), {"--listen-tcp"}),
        (("outrelay-relay", "--audit-overflow", ""), {"deny", "drop"}),
        (("outrelay-relay", "--config", "none.toml", "--advertise-"), {"--advertise-tcp"}),
        (("outrelay-controller", "--audit-r"), {"--audit-retention"}),
        (("outrelay-agent", "--expose-t"), {"--expose-target"}),
        (("outrelay-agent", "doc"), {"doctor"}),
        (("dev-pki", "--da"), {"--days"}),
    ],
)
def test_what_a_word_may_become(words: tuple[str, ...], found: set[str]) -> None:
    assert found <= completed(*words)

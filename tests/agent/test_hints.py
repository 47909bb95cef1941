"""What people are told to do about refusals."""

from __future__ import annotations

import shlex

import pytest

from outrelay.agent import hints
from outrelay.lib.errors import RejectCode
from tests.agent.place import AGENT


@pytest.mark.parametrize("code", RejectCode)
def test_every_code_has_something_to_do(code: RejectCode) -> None:
    assert hints.for_open(code, caller=AGENT, service="db")
    assert hints.for_registration(code, agent=AGENT, service="db")


def test_a_code_of_somebody_else_has_nothing() -> None:
    assert hints.for_open(599, caller=AGENT, service="db") == ""


def test_a_denial_names_the_command_that_allows() -> None:
    text = hints.for_open(403, caller=AGENT, service="db")
    assert shlex.split(text.partition(": ")[2]) == [
        *("outrelay-cli", "policy", "add", "--tenant", "acme", "--caller", AGENT.uri),
        *("--target", "db", "--decision", "allow"),
    ]
    assert "--method REGISTER" in hints.for_registration(403, agent=AGENT, service="db")

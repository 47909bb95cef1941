"""What people are told to do about refusals."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from outrelay.agent import hints
from outrelay.agent.options import Consume
from outrelay.lib.errors import RejectCode
from tests.agent.place import AGENT

DB = Consume(service="db", bind=("127.0.0.1", 1))


@pytest.mark.parametrize("code", RejectCode)
def test_every_code_has_something_to_do(code: RejectCode) -> None:
    assert hints.for_open(code, caller=AGENT, consume=DB)
    assert hints.for_registration(code, agent=AGENT, service="db")


def test_a_code_of_somebody_else_has_nothing() -> None:
    assert hints.for_open(599, caller=AGENT, consume=DB) == ""


@pytest.mark.parametrize("method", ["", "read", "GET /a b;c"])
def test_a_denial_names_the_command_that_allows(method: str) -> None:
    text = hints.for_open(403, caller=AGENT, consume=replace(DB, method=method))
    assert shlex.split(text.partition(": ")[2]) == [
        *("outrelay-cli", "policy", "add", "--tenant", "acme", "--caller", AGENT.uri),
        *("--target", "db", *(["--method", method] if method else [])),
        *("--decision", "allow"),
    ]
    assert "--method REGISTER" in hints.for_registration(403, agent=AGENT, service="db")

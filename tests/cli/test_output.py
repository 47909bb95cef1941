"""Lines that fit, records in words."""

from __future__ import annotations

import pytest

from outrelay.cli.output import MEDIUM, Column, Lines, record_of, short_name
from outrelay.lib.control.v1 import policy_pb2, registry_pb2

Row = tuple[str, str, str]
COLUMNS: tuple[Column[Row], ...] = (
    Column(title="ID", text=lambda row: row[0], whole=True),
    Column(title="TEXT", text=lambda row: row[1]),
    Column(title="MORE", text=lambda row: row[2], least=MEDIUM),
)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("width", "shown"), [(99, False), (100, True)])
def test_lines_have_more_columns_where_there_is_room(
    width: int, shown: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    Lines(COLUMNS).show(("1", "text", "more"))
    head, _ = capsys.readouterr().out.splitlines()
    assert ("MORE" in head) is shown


def test_an_enum_value_nobody_knows_is_its_number() -> None:
    record = record_of(policy_pb2.PolicyRule(p2p_mode=77))  # type: ignore[arg-type]
    assert record["p2p_mode"] == "77"
    assert record["decision"] == "unspecified"


def test_lists_are_lists_and_truths_are_truths() -> None:
    agent = record_of(registry_pb2.AgentInfo(services=["a", "b"]))
    assert (agent["services"], agent["features"]) == (["a", "b"], [])
    assert record_of(registry_pb2.RelayInfo(alive=True))["alive"] is True


def test_an_agent_is_named_by_the_beginning_of_its_name() -> None:
    name = "00f1e2d3-0000-4000-8000-00000000000a"
    assert short_name(f"outrelay://acme/agent/{name}") == "00f1e2d3"
    assert short_name("outrelay://local/relay/r1") == "local/relay/r1"
    assert short_name("garbage") == "garbage"

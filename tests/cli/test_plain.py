"""The CLI and a controller of another implementation: what it does not know, the CLI does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.running import Cli
from tests.controller.live import AGENT_A, AGENT_B
from tests.support.plain_contract import DECISION_DENY, make
from tests.support.plain_controller import PlainController


@dataclass(frozen=True)
class Made:
    """A plain controller and the CLI that calls it."""

    controller: PlainController
    cli: Cli


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[Made]:
    controller = PlainController()
    async with controller.serving() as target:
        environment = {
            "OUTRELAY_CLI_CONTROLLER": target,
            "OUTRELAY_CLI_PLAINTEXT": "1",
            "OUTRELAY_CLI_TENANT": "acme",
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
        }
        yield Made(controller, Cli(tmp_path, environment))


async def test_rules_are_added_listed_and_removed(plain: Made) -> None:
    added = await plain.cli.ok(
        *("policy", "add", "--caller", "*", "--target", "db", "--decision", "deny"),
        *("--method", "GET", "--expires", "1h", "--p2p-mode", "forbidden"),
    )
    rule_id = added.strip()
    [rule] = plain.controller.rules.values()
    assert (rule.id, rule.tenant, rule.target_pattern) == (rule_id, "acme", "db")
    assert (rule.decision, rule.method_pattern, rule.p2p_mode) == (DECISION_DENY, "GET", 1)
    assert rule.expires_unix_ms > rule.created_at_unix_ms > 0
    assert rule_id in await plain.cli.ok("policy", "list")

    await plain.cli.ok("policy", "remove", "--id", rule_id)
    assert not plain.controller.rules
    assert "no policy rule" in await plain.cli.fails(3, "policy", "remove", "--id", rule_id)


async def test_a_decision_is_explained_from_the_rules_it_lists(plain: Made) -> None:
    for target, decision in (("db", "allow"), ("web", "deny")):
        await plain.cli.ok(
            "policy", "add", "--caller", "*", "--target", target, "--decision", decision
        )
    asked = ("policy", "explain", "--caller", AGENT_A, "--target", "db", "--provider", AGENT_B)
    [answer] = await plain.cli.records(*asked)

    assert answer["decision"] == "allow"
    assert answer["matched_rule_id"] == "rule-1"
    considered = answer["considered"]
    assert isinstance(considered, list)
    assert [each["why"] for each in considered] == [
        "the only one that matches",
        "the target does not match",
    ]


async def test_a_file_is_applied_rule_by_rule_what_is_new_first(
    plain: Made, tmp_path: Path
) -> None:
    await plain.cli.ok("policy", "add", "--caller", "*", "--target", "old", "--decision", "allow")
    await plain.cli.ok("policy", "add", "--caller", "*", "--target", "both", "--decision", "allow")
    file = tmp_path / "rules.yaml"
    file.write_text(
        "tenant: acme\nrules:\n"
        "- {caller: '*', target: both, decision: allow}\n"
        "- {caller: '*', target: new, decision: allow}\n"
    )
    told = await plain.cli.ok("policy", "apply", "--yes", "-f", file)

    assert "1 added, 1 removed, 1 unchanged" in told
    assert {rule.target_pattern for rule in plain.controller.rules.values()} == {"both", "new"}
    changes = [name for name, _ in plain.controller.calls if name != "Policy/ListPolicies"]
    assert changes[2:] == ["Policy/AddPolicy", "Policy/RemovePolicy"]


async def test_the_trail_is_queried(plain: Made) -> None:
    for number in range(3):
        event = make(
            "AuditEvent", ts_unix_ms=number + 1, tenant="acme", caller=AGENT_A, target="db"
        )
        plain.controller.events.append(event)
    events = await plain.cli.records("audit", "query", "--limit", "2")
    assert [event["ts_unix_ms"] for event in events] == [3, 2]


@pytest.mark.parametrize(
    "command", [("fleet", "streams"), ("stream", "kill", "0123456789abcdef")], ids=" ".join
)
async def test_what_only_ours_can_do_fails_in_words(plain: Made, command: tuple[str, ...]) -> None:
    assert "does not know this call" in await plain.cli.fails(1, *command)

"""``outrelay-cli policy`` against a live controller."""

from __future__ import annotations

import time
from uuid import UUID

from tests.cli.running import Cli, cli_of
from tests.controller.live import AGENT_A, AGENT_B, LiveController

RULE = ("--caller", "outrelay://acme/agent/*", "--target", "db", "--decision", "allow")


async def test_add_prints_the_id_and_nothing_else(cli: Cli) -> None:
    out = await cli.ok("policy", "add", *RULE)
    assert out == f"{UUID(out.strip())}\n"
    (record,) = await cli.records("policy", "add", *RULE)
    assert UUID(str(record["id"]))


async def test_list_shows_what_was_added(cli: Cli) -> None:
    before = time.time() * 1000
    rule_id = (
        await cli.ok(
            "policy", "add", "--tenant", "acme", *RULE, "--method", "GET", "--expires", "24h",
            "--p2p-mode", "required", "--relay-mode", "forward",
        )
    ).strip()  # fmt: skip
    (rule,) = await cli.records("policy", "list")
    expires, created = rule.pop("expires_unix_ms"), rule.pop("created_at_unix_ms")
    assert rule == {
        "id": rule_id,
        "tenant": "acme",
        "caller_pattern": "outrelay://acme/agent/*",
        "target_pattern": "db",
        "method_pattern": "GET",
        "decision": "allow",
        "p2p_mode": "required",
        "relay_mode": "forward",
    }
    assert isinstance(created, int)
    assert isinstance(expires, int)
    assert abs(expires - created - 24 * 3600 * 1000) < 5000
    assert created >= before - 5000
    head, line = (await cli.ok("policy", "list")).splitlines()
    assert head.split() == [
        "ID", "DECISION", "CALLER", "TARGET", "METHOD", "P2P", "RELAY", "EXPIRES"
    ]  # fmt: skip
    assert line.split()[:5] == [rule_id, "allow", "outrelay://acme/agent/*", "db", "GET"]


async def test_list_leaves_out_what_no_rule_has(cli: Cli) -> None:
    await cli.ok("policy", "add", *RULE)
    head = (await cli.ok("policy", "list")).splitlines()[0]
    assert head.split() == ["ID", "DECISION", "CALLER", "TARGET"]


async def test_remove_removes(cli: Cli) -> None:
    rule_id = (await cli.ok("policy", "add", *RULE)).strip()
    assert await cli.ok("policy", "remove", "--id", rule_id) == ""
    assert await cli.records("policy", "list") == []
    line = await cli.fails(3, "policy", "remove", "--id", rule_id)
    assert f"acme has no policy rule {rule_id}" in line


class TestTenant:
    async def test_is_the_operators_unless_said(self, cli: Cli) -> None:
        await cli.ok("policy", "add", *RULE)
        (rule,) = await cli.records("policy", "list", "--tenant", "acme")
        assert rule["tenant"] == "acme"

    async def test_of_others_is_refused(self, cli: Cli) -> None:
        line = await cli.fails(4, "policy", "list", "--tenant", "other")
        assert "is an operator of acme, not of other" in line

    async def test_must_be_said_by_who_may_touch_all(
        self, cli: Cli, controller: LiveController
    ) -> None:
        system = cli_of(cli.directory, controller, controller.pki.operator("system", "root"))
        line = await system.fails(2, "policy", "list")
        assert "--tenant is missing" in line
        await system.ok("policy", "add", "--tenant", "acme", *RULE)
        assert len(await system.records("--tenant", "acme", "policy", "list")) == 1
        admin = ("--controller", controller.targets["admin"])
        await system.fails(2, *admin, "policy", "list")


async def test_what_the_controller_finds_wrong_is_bad_usage(cli: Cli) -> None:
    line = await cli.fails(
        2, "policy", "add", "--caller", "", "--target", "db", "--decision", "deny"
    )
    assert line.endswith("caller_pattern: must be given")


class TestExplain:
    ASK = ("policy", "explain", "--caller", AGENT_A, "--target", "db")

    async def test_says_what_and_why(self, cli: Cli) -> None:
        narrow = (await cli.ok("policy", "add", *RULE)).strip()
        await cli.ok("policy", "add", "--caller", "*", "--target", "d*", "--decision", "deny")
        verdict, head, first, second = (await cli.ok(*self.ASK)).splitlines()
        assert verdict == f"allow: allowed by policy rule {narrow}"
        assert head.split() == ["ID", "DECISION", "CALLER", "TARGET", "WHY"]
        assert first.split()[:3] == ["*", narrow, "allow"]
        assert "the most specific that matches" in first
        assert second.split()[1] == "deny"
        assert f"less specific target than that of {narrow}" in second

    async def test_without_rules_is_a_denial_and_no_table(self, cli: Cli) -> None:
        assert await cli.ok(*self.ASK) == "deny: no policy rule allows it\n"

    async def test_tells_the_providers_side_too(self, cli: Cli) -> None:
        await cli.ok("policy", "add", *RULE)
        await cli.ok(
            "policy", "add", "--caller", AGENT_B, "--target", AGENT_A, "--decision", "deny"
        )
        (record,) = await cli.records(*self.ASK, "--method", "GET", "--provider", AGENT_B)
        assert record["decision"] == "deny"
        considered = record["considered"]
        assert isinstance(considered, list)
        assert [(each["callee_side"], each["decides"]) for each in considered] == [
            (False, True),
            (True, True),
        ]
        assert considered[1]["rule"]["id"] == record["matched_rule_id"]

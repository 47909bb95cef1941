"""``outrelay-cli policy apply`` against a live controller."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from outrelay.cli import apply as apply_module
from outrelay.cli.command import main
from outrelay.cli.ruleset import Difference, difference
from outrelay.lib.control.v1 import policy_pb2 as pb
from tests.cli.running import Cli, cli_of
from tests.controller.live import LiveController, policy_rule

FILE = """\
tenant: acme
rules:
- {caller: "*", target: db, decision: allow}
- {caller: "*", target: web, decision: deny, expires: 2030-12-31T23:59:59Z}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(FILE)
    return path


async def answering(cli: Cli, answer: str, *arguments: str | Path) -> Result:
    """Run a command that reads ``answer``."""
    texts = [str(argument) for argument in arguments]
    return await asyncio.to_thread(
        lambda: CliRunner().invoke(main, texts, env=cli.environment, input=answer)
    )


async def test_shows_the_difference_and_makes_it_so(cli: Cli, file: Path) -> None:
    await cli.ok("policy", "add", "--caller", "*", "--target", "old", "--decision", "allow")
    out = await cli.ok("policy", "apply", "-f", file, "--yes")
    assert out.splitlines() == [
        "- allow * -> old",
        "+ allow * -> db",
        "+ deny * -> web, expires 2030-12-31T23:59:59Z",
        "acme: 2 added, 1 removed, 0 unchanged",
    ]
    targets = [rule["target_pattern"] for rule in await cli.records("policy", "list")]
    assert targets == ["db", "web"]


async def test_again_changes_nothing_and_asks_nothing(cli: Cli, file: Path) -> None:
    await cli.ok("policy", "apply", "-f", file, "--yes")
    before = await cli.records("policy", "list")
    out = await cli.ok("policy", "apply", "-f", file)
    assert out == "acme: 0 added, 0 removed, 2 unchanged\n"
    assert await cli.records("policy", "list") == before


async def test_asks_before_it_does_anything(cli: Cli, file: Path) -> None:
    no = await answering(cli, "n\n", "policy", "apply", "-f", file)
    assert no.exit_code == 1
    assert "+ allow * -> db" in no.stdout
    assert "Change the rules of acme?" in no.stderr
    assert await cli.records("policy", "list") == []
    yes = await answering(cli, "y\n", "policy", "apply", "-f", file)
    assert yes.exit_code == 0, yes.output
    assert len(await cli.records("policy", "list")) == 2


async def test_reads_standard_input_when_nobody_must_be_asked(cli: Cli) -> None:
    result = await answering(cli, FILE, "policy", "apply", "-f", "-")
    assert result.exit_code == 2
    assert "--yes is missing" in result.stderr
    assert await cli.records("policy", "list") == []
    result = await answering(cli, FILE, "policy", "apply", "-f", "-", "--yes")
    assert result.exit_code == 0, result.output
    assert len(await cli.records("policy", "list")) == 2


async def test_takes_back_what_list_prints(cli: Cli, tmp_path: Path) -> None:
    await cli.ok(
        "policy", "add", "--caller", "outrelay://acme/agent/*", "--target", "123", "--method",
        "GET", "--decision", "allow", "--expires", "1h", "--p2p-mode", "required",
        "--relay-mode", "forward",
    )  # fmt: skip
    for _ in range(2):  # two that say the same are two
        await cli.ok("policy", "add", "--caller", "*", "--target", "é", "--decision", "deny")
    path = tmp_path / "listed.yaml"
    path.write_text(await cli.ok("policy", "list", "--output", "yaml"))
    before = await cli.records("policy", "list")
    out = await cli.ok("policy", "apply", "-f", path)
    assert out == "acme: 0 added, 0 removed, 3 unchanged\n"
    assert await cli.records("policy", "list") == before


async def test_the_record_has_the_difference_and_the_revision(cli: Cli, file: Path) -> None:
    result = await cli.run("policy", "apply", "-f", file, "--yes", "--output", "yaml")
    (record,) = yaml.safe_load(result.stdout)
    assert [rule["target_pattern"] for rule in record.pop("added")] == ["db", "web"]
    assert record == {"tenant": "acme", "revision": 1, "removed": [], "kept": 0}
    assert "+ allow * -> db" in result.stderr


async def test_rules_that_changed_meanwhile_are_left_alone(
    cli: Cli, controller: LiveController, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()

    async def add() -> None:
        async with controller.admin() as admin:
            await admin.policy.AddPolicy(pb.AddPolicyRequest(rule=policy_rule(id="theirs")))

    def late(current: list[pb.PolicyRule], wanted: list[pb.PolicyRule]) -> Difference:
        asyncio.run_coroutine_threadsafe(add(), loop).result(10)
        return difference(current, wanted)

    monkeypatch.setattr(apply_module, "difference", late)
    result = await cli.run("policy", "apply", "-f", file, "--yes")
    assert result.exit_code == 1
    assert "the rules of acme have changed: they are at revision 1, not 0" in result.stderr
    assert [rule["id"] for rule in await cli.records("policy", "list")] == ["theirs"]


class TestTenant:
    async def test_of_the_file_is_the_one_that_was_said(self, cli: Cli, file: Path) -> None:
        line = await cli.fails(78, "policy", "apply", "-f", file, "--yes", "--tenant", "other")
        assert "has the rules of acme, not of other" in line

    async def test_of_the_file_is_enough_for_who_may_touch_all(
        self, cli: Cli, controller: LiveController, file: Path
    ) -> None:
        system = cli_of(cli.directory, controller, controller.pki.operator("system", "root"))
        await system.ok("policy", "apply", "-f", file, "--yes")
        await asyncio.to_thread(file.write_text, "rules: []")
        await system.fails(2, "policy", "apply", "-f", file, "--yes")


async def test_a_fault_in_the_file_is_one_line(cli: Cli, file: Path) -> None:
    await asyncio.to_thread(file.write_text, FILE + "- {caler: x}\n")
    line = await cli.fails(78, "policy", "apply", "-f", file)
    assert f"{file}:5: unknown key 'caler'" in line

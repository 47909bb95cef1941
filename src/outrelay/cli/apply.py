"""``outrelay-cli policy apply``: let a tenant have exactly the rules of a file.

Source: commands.md, outrelay-cli.
"""

from __future__ import annotations

import click

from outrelay.cli.flags import calls_controller, examples
from outrelay.cli.output import TABLE, print_record, record_of
from outrelay.cli.plain import replaced
from outrelay.cli.ruleset import Difference, RuleSet, difference, line_of, parse
from outrelay.cli.session import STREAM_TIMEOUT, Missing, Session
from outrelay.lib.control.v1 import policy_pb2 as pb
from outrelay.lib.control.v1.policy_pb2_grpc import PolicyStub
from outrelay.lib.errors import ConfigError

STDIN = "-"
"""The path that means standard input."""


@click.command(
    epilog=examples(
        """
        outrelay-cli policy list --output yaml > rules.yaml
        outrelay-cli policy apply -f rules.yaml
        generate-rules | outrelay-cli policy apply --tenant acme --yes -f -
        """
    )
)
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    required=True,
    help="File of rules; - is standard input.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@calls_controller
async def apply(session: Session, *, file: str, yes: bool) -> None:
    """Let a tenant have exactly the rules of a YAML file.

    Shows what is added (+) and removed (-) and asks before it is done, in one step. Rules
    that say the same as before stay as they are, with their ids.
    """
    source = "standard input" if file == STDIN else file
    with click.open_file(file, "rb") as opened:
        wanted = parse(opened.read(), source=source)
    tenant = _tenant(session, wanted, source)
    async with session.channel() as channel:
        policy = PolicyStub(channel)
        listed = await policy.ListPolicies(
            pb.ListPoliciesRequest(tenant=tenant), timeout=STREAM_TIMEOUT
        )
        found = difference(listed.rules, wanted.rules)
        revision = listed.revision
        if found.added or found.removed:
            _show(session, found)
            _ask(tenant, yes=yes, stdin=file == STDIN)
            for rule in found.added:
                rule.tenant = tenant
            revision = await replaced(policy, tenant, found, revision)
    _report(session, tenant, found, revision)


def _tenant(session: Session, wanted: RuleSet, source: str) -> str:
    if session.tenant and wanted.tenant not in ("", session.tenant):
        fault = f"has the rules of {wanted.tenant}, not of {session.tenant}"
        raise ConfigError(source, fault, f"give --tenant {wanted.tenant} if you mean it")
    return wanted.tenant or session.required_tenant


def _show(session: Session, found: Difference) -> None:
    lines = [f"- {line_of(rule)}" for rule in found.removed]
    lines += [f"+ {line_of(rule)}" for rule in found.added]
    for line in lines:
        click.echo(line, err=session.output != TABLE)


def _ask(tenant: str, *, yes: bool, stdin: bool) -> None:
    if yes:
        return
    if stdin:
        raise Missing(
            "--yes is missing: the rules come from standard input, so nobody can be asked"
        )
    click.confirm(f"Change the rules of {tenant}?", abort=True, err=True)


def _report(session: Session, tenant: str, found: Difference, revision: int) -> None:
    if session.output != TABLE:
        record = {
            "tenant": tenant,
            "revision": revision,
            "added": [record_of(rule) for rule in found.added],
            "removed": [record_of(rule) for rule in found.removed],
            "kept": found.kept,
        }
        print_record(session.output, record)
        return
    added, removed = len(found.added), len(found.removed)
    click.echo(f"{tenant}: {added} added, {removed} removed, {found.kept} unchanged")
